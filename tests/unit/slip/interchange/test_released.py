"""Released checkpoints: the same embeddings, every tensor used, and no code run that a file names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import store
from pipeline.errors import CheckpointError, ConfigError
from slip.config import ModelConfig, ObjectiveConfig
from slip.evaluate.trained import find, load
from slip.interchange.released import is_released, settings_of
from tests.unit.slip.interchange.published_form import Published, save

TINY = (128, 4, 4, 8, 16)
TEXT = (128, 4, 2, 8)
HEAD = (12, 6)


def tokens() -> Tensor:
    """Captions with their end at several places."""
    drawn = torch.randint(1, 49000, (5, 8), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 49406
    drawn[torch.arange(5), torch.tensor([1, 7, 4, 2, 6])] = 49407
    return drawn


def differ(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", ["clip", "simclr", "slip"])
def test_a_released_network_computes_the_same(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    text, head = (None if name == "simclr" else TEXT), (None if name == "clip" else HEAD)
    network = Published(vit=TINY, text=text, head=head).eval()
    trained = load(save(tmp_path / f"{name}_tiny_25ep.pt", network, model=None), None)
    assert (trained.objective.name, trained.config.tower, trained.config.image_size) == (name, "tiny", 16)
    assert (trained.weights, trained.has_average, trained.step, trained.data_sha256) == ("model", False, 3, None)
    assert not trained.model.training
    assert trained.epochs == 25

    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for dtype, most in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        x, ours = images.to(dtype), trained.model.to(dtype)
        with torch.no_grad():
            wanted = network.to(dtype)
            assert differ(ours.image_features(x), wanted.visual(x)) < most
            if text is not None:
                assert differ(ours.encode_image(x), wanted.encode_image(x)) < most
                assert differ(ours.encode_text(tokens()), wanted.encode_text(tokens())) < most
                assert float(ours.logit_scale) == 3.0
            if head is not None:
                assert differ(ours.image_mlp(ours.image_features(x)), wanted.image_mlp(wanted.visual(x))) < most


def test_the_small_tower_has_twelve_heads(tmp_path: Path) -> None:
    network = Published(vit=(384, 12, 12, 16, 32), text=None, head=HEAD).eval()
    url = save(tmp_path / "simclr_small_25ep.pt", network, model="SIMCLR_VITS16")
    trained = load(url, "model")
    assert trained.config == ModelConfig(tower="vits16", image_size=32, ssl_hidden=12, ssl_dim=6)
    assert trained.objective == ObjectiveConfig(name="simclr", gather="paper", ssl_temperature=0.2)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert differ(trained.model.double().encode_image(images), network.double().visual(images)) < 1e-10


@pytest.mark.parametrize(
    ("named", "width", "depth", "text", "head", "wanted"),
    [
        ("CLIP_VITS16", 384, 12, True, False, ("clip", "vits16")),
        ("SLIP_VITB16", 768, 12, True, True, ("slip", "vitb16")),
        ("SIMCLR_VITL16", 1024, 24, False, True, ("simclr", "vitl16")),
        ("SLIP_VITL16", 1024, 24, True, True, ("slip", "vitl16")),
    ],
)
def test_published_shapes_are_found_from_tensors(
    named: str, width: int, depth: int, text: bool, head: bool, wanted: tuple[str, str]
) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "visual.patch_embed.proj.weight": (width, 3, 16, 16),
        "visual.pos_embed": (1, 197, width),
        **{f"visual.blocks.{number}.norm1.weight": (width,) for number in range(depth)},
    }
    if text:
        shapes |= {"text_projection": (512, 512), "image_projection": (width, 512), "positional_embedding": (77, 512)}
    if head:
        shapes |= {"image_mlp.layer1.weight": (4096, width), "image_mlp.layer3.weight": (256, 4096)}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    for args in ({"model": named}, {}, {"model": "OF_SOMEBODY_ELSE"}):
        model, objective = settings_of(tensors, args, "a.pt")
        # All sizes of the published networks are the defaults.
        assert (model, objective.name) == (ModelConfig(tower=model.tower), wanted[0])
        assert model.tower == wanted[1]
    with pytest.raises(CheckpointError, match=r"a\.pt: says it is a CLIP_VITB16, but its tensors are those of "):
        settings_of(tensors, {"model": "CLIP_VITB16"}, "a.pt")


def small(**changed: Any) -> Published:
    return Published(**({"vit": TINY, "text": None, "head": HEAD} | changed))


def test_the_older_form_of_files_and_stores_are_read(tmp_path: Path) -> None:
    network = small()
    path = Path(save(tmp_path / "old.pt", network, model="of somebody", zipped=False))
    data = path.read_bytes()
    # NumPy 1 wrote another name of the same function.
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != data
    path.write_bytes(old)
    url = f"memory://{tmp_path}/old.pt"
    store.write_bytes(url, old)
    assert find(url).url == url
    for where in (str(path), f"file://{path}", url):
        assert is_released(where)
        weights = load(where, None).model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_names_without_a_prefix_are_taken(tmp_path: Path) -> None:
    network = small()
    bare = load(save(tmp_path / "bare.pt", network, state_dict=network.state_dict(), optimizer=None), None)
    assert bare.step == 0
    assert torch.equal(bare.model.state_dict()["visual.pos_embed"], network.visual.pos_embed)


class Evil:
    """Runs a command where it is unpickled with trust."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "it_ran"
    url = save(tmp_path / "a.pt", nn.Linear(1, 1), zipped=zipped, best_acc1=Evil(f"touch {proof}"))
    with pytest.raises(CheckpointError, match=r"a\.pt: holds posix\.system, which could run code.*state_dict"):
        load(url, None)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.norm.bias": None}, r"not those of a published simclr tiny: .*Missing key.*visual\.norm\.bias"),
        ({"momentum": torch.zeros(2)}, r"Unexpected key.*momentum"),
        ({"visual.norm.bias": torch.zeros(127)}, r"size mismatch for visual\.norm\.bias"),
        ({"visual.pos_embed": torch.zeros(1, 6, 128)}, "image tower is 128 wide, with 4 blocks, patch 8, 6 positions"),
        ({"visual.pos_embed": torch.zeros(5, 128)}, r"visual\.pos_embed is \(5, 128\), expected 3 dimensions"),
        ({"visual.pos_embed": None}, r"visual\.pos_embed is nothing"),
        ({"image_mlp.layer1.weight": None}, "neither text_projection nor image_mlp"),
        ({"visual.norm.bias": "zero"}, "expected tensors by name under state_dict"),
    ],
)
def test_every_tensor_must_have_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tensors = {name: tensor for name, tensor in (small().state_dict() | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        load(save(tmp_path / "a.pt", small(), state_dict=tensors), None)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = Path(save(tmp_path / "a.pt", small(), zipped=zipped))
    path.write_bytes(path.read_bytes()[:300_000])
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint \(300000 bytes.*download it again"):
        load(str(path), None)


def test_it_has_no_average(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--weights average: .*a released checkpoint"):
        load(save(tmp_path / "a.pt", small()), "average")
