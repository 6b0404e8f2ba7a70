from __future__ import annotations

import pytest
import torch

from pipeline.errors import ConfigError
from slip.config import ModelConfig, ObjectiveConfig, ObjectiveName, TowerName
from slip.models.heads import SSLHead
from slip.models.model import Model
from slip.models.registry import build_model
from slip.objectives.registry import objective

TINY = ModelConfig(tower="tiny", image_size=16, ssl_hidden=32, ssl_dim=8, embed_dim=24)

VISUAL = (
    ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    + [
        f"blocks.{n}.{part}.{kind}"
        for n in range(12)
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    + ["norm.weight", "norm.bias"]
)
TEXT = (
    ["token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias"]
    + [f"transformer.resblocks.{n}.attn.in_proj_{kind}" for n in range(12) for kind in ("weight", "bias")]
    + [
        f"transformer.resblocks.{n}.{part}.{kind}"
        for n in range(12)
        for part in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ]
    + ["image_projection", "text_projection", "logit_scale"]
)
HEAD = [f"{layer}.{kind}" for layer in ("layer1", "bn1", "layer2", "bn2", "layer3") for kind in ("weight", "bias")]
NAMES = {
    "visual": [f"visual.{name}" for name in VISUAL],
    "text": TEXT,
    "head": [f"image_mlp.{name}" for name in HEAD],
}
PARTS: dict[ObjectiveName, tuple[str, ...]] = {
    "clip": ("visual", "text"),
    "simclr": ("visual", "head"),
    "slip": ("visual", "text", "head"),
}


def on_meta(tower: TowerName, name: ObjectiveName) -> Model:
    with torch.device("meta"):
        return build_model(ModelConfig(tower=tower), ObjectiveConfig(name=name))


@pytest.mark.parametrize("name", ["clip", "simclr", "slip"])
def test_parameters_carry_the_published_names(name: ObjectiveName) -> None:
    model = on_meta("vitb16", name)
    assert sorted(n for n, _ in model.named_parameters()) == sorted(n for part in PARTS[name] for n in NAMES[part])
    buffers = {n for n, _ in model.named_buffers()}
    assert buffers == {
        f"image_mlp.{bn}.{buffer}"
        for bn in ("bn1", "bn2")
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
        if "head" in PARTS[name]
    }


def vit_parameters(width: int, depth: int) -> int:
    """Of a ViT/16 for 224 pixels without head: patches, class token, 197 positions, blocks, last norm."""
    return (3 * 16 * 16 + 1) * width + width + 197 * width + depth * (12 * width**2 + 13 * width) + 2 * width


TEXT_PARAMETERS = 49408 * 512 + 77 * 512 + 12 * (12 * 512**2 + 13 * 512) + 2 * 512 + 512 * 512 + 1


def head_parameters(width: int) -> int:
    return (width + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 256 + 4 * 4096


@pytest.mark.parametrize(("tower", "width", "depth"), [("vits16", 384, 12), ("vitb16", 768, 12), ("vitl16", 1024, 24)])
def test_parameter_counts(tower: TowerName, width: int, depth: int) -> None:
    def count(name: ObjectiveName) -> int:
        return sum(p.numel() for p in on_meta(tower, name).parameters())

    vit = vit_parameters(width, depth)
    assert count("clip") == vit + TEXT_PARAMETERS + width * 512
    assert count("simclr") == vit + head_parameters(width)
    assert count("slip") == vit + TEXT_PARAMETERS + width * 512 + head_parameters(width)


def test_small_tower_has_moco_v3s_heads() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(tower="vits16"), ObjectiveConfig(name="simclr"))
    block = model.visual.get_submodule("blocks.0.attn")
    assert block.num_heads == 12


def test_weights_depend_on_the_seed_only_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = build_model(TINY, ObjectiveConfig(), seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = build_model(TINY, ObjectiveConfig(), seed=5).state_dict()
    other = build_model(TINY, ObjectiveConfig(), seed=6).state_dict()
    clip = build_model(TINY, ObjectiveConfig(name="clip"), seed=5).state_dict()
    simclr = build_model(TINY, ObjectiveConfig(name="simclr"), seed=5).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert all(torch.equal(first[name], value) for name, value in (clip | simclr).items())
    for name in ("visual.pos_embed", "token_embedding.weight", "image_mlp.layer1.weight"):
        assert not torch.equal(other[name], first[name])


@pytest.mark.parametrize("name", ["clip", "simclr", "slip"])
def test_one_call_uses_every_parameter(name: ObjectiveName) -> None:
    torch.manual_seed(0)
    goal = objective(ObjectiveConfig(name=name))
    model = build_model(TINY, goal.config)
    views = tuple(torch.randn(4, 3, 16, 16) for _ in goal.views)
    tokens = torch.tensor([[49406, 5, 49407, 0], [49406, 6, 7, 49407]] * 2) if goal.needs_text else None
    found = model(views, goal.views, tokens)
    torch.autograd.backward(goal(found)["loss"])
    # The class token's and the image tower's last parts included: nothing may stay without a gradient under DDP.
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    if tokens is not None:
        assert found.image is not None
        torch.testing.assert_close(found.image, model.encode_image(views[0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.text, model.encode_text(tokens), rtol=1e-4, atol=1e-5)
    if "ssl" in goal.views:
        assert [e.shape for e in found.ssl] == [(4, 8)] * 2


def test_embeddings_are_float32_under_autocast() -> None:
    model = build_model(TINY, ObjectiveConfig())
    views = (torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(views, ("clip", "ssl", "ssl"), torch.tensor([[49406, 49407]] * 4))
    assert found.image is not None
    assert found.text is not None
    assert {e.dtype for e in (found.image, found.text, *found.ssl)} == {torch.float32}


def test_views_of_different_sizes_need_not_be_stacked() -> None:
    torch.manual_seed(0)
    model = Model(
        visual=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        visual_width=3,
        embed_dim=2,
        text=None,
        head=SSLHead(3, 8, 4),
    )
    small, large = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 16, 16)
    mixed = model((small, large), ("ssl", "ssl"), None)
    alone = model((small, small), ("ssl", "ssl"), None)
    torch.testing.assert_close(mixed.ssl[0], alone.ssl[0])


def test_logit_scale_is_kept_within_its_bounds() -> None:
    model = build_model(TINY, ObjectiveConfig(name="clip"))
    for value, kept in ((5.0, 4.6052), (-1.0, 0.0), (2.0, 2.0)):
        model.logit_scale.data.fill_(value)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(kept, abs=1e-4)
    build_model(TINY, ObjectiveConfig(name="simclr")).clamp_logit_scale()


def test_image_size_must_fit_the_patches() -> None:
    with pytest.raises(ConfigError, match=r"--model.image-size is 100.*multiple of 16"):
        build_model(ModelConfig(tower="vitb16", image_size=100), ObjectiveConfig())
