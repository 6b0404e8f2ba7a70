"""The image tower in timm: loaded by timm's own functions, the same features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slip.config import ModelConfig
from slip.data.augment import evaluation_view, normalise
from slip.interchange.about import Export
from slip.interchange.timm_out import arguments, write
from slip.models.image import image_tower
from slip.torchvision_compat import import_timm

timm: Any = import_timm()


def noisy(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_timm_computes_the_same_features(tmp_path: Path, exported: Callable[..., Export]) -> None:
    export = exported("slip")
    write(export, tmp_path)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    readme = (tmp_path / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0].replace("FOLDER", str(tmp_path))
    for line in (line for line in code.splitlines() if line.startswith("model = ")):
        found = eval(line.removeprefix("model = "), {"timm": timm}).eval()
        with torch.no_grad():
            wanted = export.trained.model.image_features(images)
            assert float((found(images) - wanted).abs().max()) < 1e-5


def test_timm_prepares_pictures_in_the_same_way(tmp_path: Path, exported: Callable[..., Export]) -> None:
    write(exported("simclr"), tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for size in ((70, 50), (41, 90), (32, 32)):
        picture = noisy(*size)
        view = torch.from_numpy(evaluation_view(picture, 32).copy()).permute(2, 0, 1)[None]
        assert torch.allclose(transform(picture), normalise(view)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (ModelConfig(tower="vits16"), ("vit_small_patch16_224", {"num_heads": 12})),
        (ModelConfig(tower="vitb16"), ("vit_base_patch16_224", {})),
        (ModelConfig(tower="vitl16"), ("vit_large_patch16_224", {})),
        (ModelConfig(tower="vitb16", image_size=96), ("vit_base_patch16_224", {"img_size": 96})),
    ],
)
def test_published_towers_are_timms_by_name(model: ModelConfig, wanted: tuple[str, dict[str, int]]) -> None:
    name, differ = arguments(model)
    assert (name, differ) == wanted
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0, **differ)
        ours: Any = image_tower(model)
    shapes = [{key: tuple(value.shape) for key, value in tower.state_dict().items()} for tower in (theirs, ours)]
    assert shapes[0] == shapes[1]
    assert theirs.blocks[0].attn.num_heads == ours.blocks[0].attn.num_heads
    assert theirs.norm.eps == ours.norm.eps
