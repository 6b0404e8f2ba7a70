"""Parameter names of others."""

from __future__ import annotations

import torch

from slip.interchange.names import for_open_clip, for_timm, left_out, without_parallel

TENSORS = {
    name: torch.full((2, 3), float(number))
    for number, name in enumerate(
        [
            "visual.cls_token",
            "visual.blocks.0.attn.qkv.weight",
            "transformer.resblocks.0.ln_1.weight",
            "token_embedding.weight",
            "positional_embedding",
            "ln_final.bias",
            "image_projection",
            "text_projection",
            "logit_scale",
            "logit_bias",
            "image_mlp.layer1.weight",
            "momentum.visual.cls_token",
            "mask_token",
        ]
    )
}


def test_a_prefix_goes_only_where_all_have_it() -> None:
    assert set(without_parallel({f"module.{name}": tensor for name, tensor in TENSORS.items()})) == set(TENSORS)
    assert set(without_parallel({"module.a": torch.ones(1), "b": torch.ones(1)})) == {"module.a", "b"}


def test_timm_has_the_image_tower_alone() -> None:
    found = for_timm(TENSORS)
    assert set(found) == {"cls_token", "blocks.0.attn.qkv.weight"}
    assert torch.equal(found["cls_token"], TENSORS["visual.cls_token"])


def test_open_clip_has_both_towers_and_a_linear_layer_for_the_projection() -> None:
    found = for_open_clip(TENSORS)
    assert set(found) == {
        "visual.trunk.cls_token",
        "visual.trunk.blocks.0.attn.qkv.weight",
        "visual.head.proj.weight",
        "transformer.resblocks.0.ln_1.weight",
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.bias",
        "text_projection",
        "logit_scale",
        "logit_bias",
    }
    assert found["visual.head.proj.weight"].shape == (3, 2)
    assert torch.equal(found["text_projection"], TENSORS["text_projection"])


def test_what_is_left_out_is_named() -> None:
    assert left_out(TENSORS, text=True) == ["image_mlp", "mask_token", "momentum"]
    assert "transformer" in left_out(TENSORS, text=False)
    assert "visual" not in left_out(TENSORS, text=False)
