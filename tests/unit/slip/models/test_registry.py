from __future__ import annotations

import pytest
import torch

from pipeline.errors import ConfigError
from slip.config import ModelConfig, ObjectiveConfig, ObjectiveName, TowerName
from slip.models.model import Model
from slip.models.registry import build_model

TINY = ModelConfig(tower="tiny", image_size=16, ssl_hidden=32, ssl_dim=8, embed_dim=24)
EVERYTHING = ObjectiveConfig(name="slip", ssl=("simclr", "mocov3", "byol", "mim"))
SHAPES: dict[TowerName, tuple[int, int]] = {"vits16": (384, 12), "vitb16": (768, 12), "vitl16": (1024, 24)}
PUBLISHED: tuple[ObjectiveName, ...] = ("clip", "simclr", "slip")


def on_meta(tower: TowerName, objective: ObjectiveConfig) -> Model:
    with torch.device("meta"):
        return build_model(ModelConfig(tower=tower), objective)


def visual_shapes(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Of a ViT/16 for 224 pixels without head."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for n in range(depth):
        for part, inside, outside in (
            ("attn.qkv", width, 3 * width),
            ("attn.proj", width, width),
            ("mlp.fc1", width, 4 * width),
            ("mlp.fc2", 4 * width, width),
        ):
            shapes |= {f"blocks.{n}.{part}.weight": (outside, inside), f"blocks.{n}.{part}.bias": (outside,)}
        shapes |= {f"blocks.{n}.{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    return {f"visual.{name}": shape for name, shape in shapes.items()}


def text_shapes(visual_width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (49408, 512),
        "positional_embedding": (77, 512),
        "ln_final.weight": (512,),
        "ln_final.bias": (512,),
        "image_projection": (visual_width, 512),
        "text_projection": (512, 512),
        "logit_scale": (),
    }
    for n in range(12):
        block = {
            "attn.in_proj_weight": (1536, 512),
            "attn.in_proj_bias": (1536,),
            "attn.out_proj.weight": (512, 512),
            "attn.out_proj.bias": (512,),
            "mlp.c_fc.weight": (2048, 512),
            "mlp.c_fc.bias": (2048,),
            "mlp.c_proj.weight": (512, 2048),
            "mlp.c_proj.bias": (512,),
            **{f"{norm}.{kind}": (512,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")},
        }
        shapes |= {f"transformer.resblocks.{n}.{name}": shape for name, shape in block.items()}
    return shapes


def head_shapes(width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, inside, outside in (("layer1", width, 4096), ("layer2", 4096, 4096), ("layer3", 4096, 256)):
        shapes |= {f"image_mlp.{layer}.weight": (outside, inside), f"image_mlp.{layer}.bias": (outside,)}
    return shapes | {f"image_mlp.{bn}.{kind}": (4096,) for bn in ("bn1", "bn2") for kind in ("weight", "bias")}


@pytest.mark.parametrize("tower", SHAPES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_have_the_published_names_and_shapes(name: ObjectiveName, tower: TowerName) -> None:
    width, depth = SHAPES[tower]
    expected = visual_shapes(width, depth)
    expected |= text_shapes(width) if name != "simclr" else {}
    expected |= head_shapes(width) if name != "clip" else {}
    model = on_meta(tower, ObjectiveConfig(name=name))
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == expected
    assert {n for n, _ in model.named_buffers()} == {
        f"image_mlp.{bn}.{buffer}"
        for bn in ("bn1", "bn2")
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
        if name != "clip"
    }


def vit_parameters(width: int, depth: int) -> int:
    """Patches, class token, 197 positions, blocks, last norm."""
    return (3 * 16 * 16 + 1) * width + width + 197 * width + depth * (12 * width**2 + 13 * width) + 2 * width


TEXT_PARAMETERS = 49408 * 512 + 77 * 512 + 12 * (12 * 512**2 + 13 * 512) + 2 * 512 + 512 * 512 + 1


def head_parameters(width: int) -> int:
    return (width + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 256 + 4 * 4096


@pytest.mark.parametrize("tower", SHAPES)
def test_parameter_counts(tower: TowerName) -> None:
    def count(name: ObjectiveName) -> int:
        return sum(p.numel() for p in on_meta(tower, ObjectiveConfig(name=name)).parameters())

    width, depth = SHAPES[tower]
    vit = vit_parameters(width, depth)
    assert count("clip") == vit + TEXT_PARAMETERS + width * 512
    assert count("siglip") == vit + TEXT_PARAMETERS + width * 512 + 1
    assert count("simclr") == vit + head_parameters(width)
    assert count("slip") == vit + TEXT_PARAMETERS + width * 512 + head_parameters(width)
    assert count("mim") == vit + width + (width + 1) * 3 * 16**2


@pytest.mark.parametrize(("tower", "heads"), [("vits16", 12), ("vitb16", 12), ("vitl16", 16)])
def test_image_towers_have_the_published_attention_heads(tower: TowerName, heads: int) -> None:
    model = on_meta(tower, ObjectiveConfig(name="simclr"))
    assert {block.get_submodule("attn").num_heads for block in model.visual.blocks} == {heads}


def test_momentum_tower_has_image_tower_and_projectors_and_no_gradient() -> None:
    model = on_meta("vits16", EVERYTHING)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    copied = {n: s for n, s in shapes.items() if n.startswith("momentum.")}
    projectors = {
        n.replace(f"{name}_projector", f"momentum.projectors.{name}"): shape
        for name in ("mocov3", "byol")
        for n, shape in shapes.items()
        if n.startswith(f"{name}_projector")
    }
    assert projectors
    assert copied == {f"momentum.{n}": s for n, s in visual_shapes(384, 12).items()} | projectors
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    # MoCo v3 leaves the patch projection as it is at the start.
    assert frozen == {*copied, "visual.patch_embed.proj.weight", "visual.patch_embed.proj.bias"}


def test_the_patch_projection_is_learnt_without_mocov3() -> None:
    model = on_meta("vits16", ObjectiveConfig(name="byol"))
    assert {n for n, p in model.named_parameters() if not p.requires_grad and not n.startswith("momentum.")} == set()


def test_weights_depend_on_the_seed_only_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = build_model(TINY, EVERYTHING, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = build_model(TINY, EVERYTHING, seed=5).state_dict()
    other = build_model(TINY, EVERYTHING, seed=6).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())
    for name in ("visual.pos_embed", "token_embedding.weight", "image_mlp.layer1.weight", "mask_token"):
        assert not torch.equal(other[name], first[name])


@pytest.mark.parametrize("name", ["clip", "siglip", "simclr", "mocov3", "byol", "mim"])
def test_parts_start_alike_under_every_objective(name: ObjectiveName) -> None:
    everything = build_model(TINY, EVERYTHING, seed=5).state_dict()
    alone = build_model(TINY, ObjectiveConfig(name=name), seed=5).state_dict()
    others = {n for n in alone if n not in everything}
    assert others == ({"logit_bias"} if name == "siglip" else set())
    for part, value in alone.items():
        # The sigmoid begins at another temperature.
        if part not in others and not (name == "siglip" and part == "logit_scale"):
            assert torch.equal(everything[part], value), part


def test_heads_start_differently_from_each_other() -> None:
    state = build_model(TINY, EVERYTHING, seed=5).state_dict()
    names = ("image_mlp.layer1.weight", "mocov3_projector.layer1.weight", "byol_projector.layer1.weight")
    first, *others = (state[name] for name in names)
    assert not any(torch.equal(first, other) for other in others)


def test_momentum_tower_starts_equal() -> None:
    state = build_model(TINY, EVERYTHING, seed=5).state_dict()
    for name, value in state.items():
        if name.startswith("momentum.visual."):
            assert torch.equal(value, state[name.removeprefix("momentum.")])


def test_siglip_starts_as_published() -> None:
    model = build_model(TINY, ObjectiveConfig(name="siglip"))
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == -10


def test_image_size_must_fit_the_patches() -> None:
    with pytest.raises(ConfigError, match=r"--model.image-size is 100.*multiple of 16"):
        build_model(ModelConfig(tower="vitb16", image_size=100), ObjectiveConfig())
