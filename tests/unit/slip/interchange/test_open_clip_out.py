"""Both towers in open_clip: loaded by open_clip's own functions, the same embeddings, tokens and pictures."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import ConfigError
from slip.config import ModelConfig
from slip.data.augment import evaluation_view, normalise
from slip.data.tokenizer import Tokenizer
from slip.interchange.about import Export
from slip.interchange.names import for_open_clip
from slip.interchange.open_clip_out import model_config, tower_name, write
from slip.models.registry import build_model
from slip.torchvision_compat import import_timm

import_timm()
import open_clip  # noqa: E402

CAPTIONS = ["a dog", "", "Two caf&eacute;s, one of them closed, on a wet evening in October or November, and a cat"]


@pytest.mark.parametrize("objective", ["slip", "siglip"])
def test_open_clip_computes_the_same(
    tmp_path: Path, exported: Callable[..., Export], objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = exported(objective)
    folder = tmp_path / "export"
    folder.mkdir()
    write(export, folder)
    monkeypatch.syspath_prepend(str(folder))
    # Each folder has a module of this name, equal where the towers are.
    assert tower_name(export.trained.config) == "slip_tiny_32"
    importlib.import_module("slip_tiny_32")
    assert ("Left out: image_mlp." in (folder / "README.md").read_text()) == (objective == "slip")
    theirs, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    theirs.eval()
    ours = export.trained.model

    tokens = tokenize(CAPTIONS)
    assert tokens.tolist() == Tokenizer(12)(CAPTIONS).tolist()
    pixels = np.random.default_rng(3).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    view = normalise(torch.from_numpy(evaluation_view(picture, 32).copy()).permute(2, 0, 1)[None])
    assert torch.allclose(prepare(picture), view[0], atol=1e-6)

    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float((theirs.encode_image(images) - ours.encode_image(images)).abs().max()) < 1e-5
        assert float((theirs.encode_text(tokens) - ours.encode_text(tokens)).abs().max()) < 1e-5
    assert torch.equal(theirs.logit_scale, ours.logit_scale)
    if objective == "siglip":
        assert torch.equal(theirs.logit_bias, ours.logit_bias)
    else:
        assert theirs.logit_bias is None


def test_a_published_tower_is_loaded_by_name_alone(exported: Callable[..., Export]) -> None:
    assert tower_name(ModelConfig(tower="vitb16")) == "vit_base_patch16_224"
    assert tower_name(ModelConfig(tower="vits16")) == "slip_vits16_224"
    trained = dataclasses.replace(exported("clip").trained, config=ModelConfig(tower="vitb16"))
    config = model_config(Export(trained=trained, checkpoint="step-00000003.pt"))
    # Names and shapes alone, nothing is computed.
    with torch.device("meta"):
        theirs = open_clip.CLIP(**config)
        ours = build_model(trained.config, trained.objective)
    wanted = {name: tuple(weight.shape) for name, weight in for_open_clip(ours.state_dict()).items()}
    assert {name: tuple(weight.shape) for name, weight in theirs.state_dict().items()} == wanted
    assert theirs.visual.trunk.global_pool == "token"


def test_without_a_text_tower_there_is_nothing_for_it(tmp_path: Path, exported: Callable[..., Export]) -> None:
    with pytest.raises(ConfigError, match=r"step-00000003\.pt was trained with objective simclr.*--to timm"):
        write(exported("simclr"), tmp_path)
    assert not list(tmp_path.glob("open_clip*"))
