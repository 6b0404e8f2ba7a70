from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slip.config import ModelConfig, ObjectiveConfig, TowerName
from slip.models.image import image_tower
from slip.models.model import Model
from slip.models.shapes import TextShape, text_shape
from slip.objectives.needs import needs_of

SHAPE = TextShape(width=32, layers=3, heads=4, context=77, vocabulary=50)


def build(shape: TextShape, *, tower: TowerName = "tiny", embed_dim: int = 16) -> Model:
    config = ModelConfig(tower=tower, image_size=16, embed_dim=embed_dim)
    return Model(config, needs_of(ObjectiveConfig(name="clip"), config), visual=image_tower(config), text=shape)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    built = build(SHAPE).double()
    for parameter in built.parameters():  # biases start at zero, where a mix-up of them would not show
        nn.init.normal_(parameter, std=0.2)
    return built


def captions(lengths: list[int], context: int) -> Tensor:
    """Random ids; the end token 49 is each caption's last one, zeros follow."""
    tokens = torch.zeros(len(lengths), context, dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, 48, (length,))
        tokens[row, length - 1] = 49
    return tokens


def published_encode_text(model: Model, tokens: Tensor) -> Tensor:
    """The published formulation: sequence first, nn.MultiheadAttention with an additive mask, full context."""
    state = model.state_dict()
    mask = torch.full((SHAPE.context, SHAPE.context), -torch.inf, dtype=torch.float64).triu(1)
    x = (state["token_embedding.weight"][tokens] + state["positional_embedding"]).permute(1, 0, 2)
    for n in range(SHAPE.layers):
        block = {k.split(f"resblocks.{n}.")[1]: v for k, v in state.items() if f"resblocks.{n}." in k}

        def norm(x: Tensor, name: str, block: dict[str, Tensor] = block) -> Tensor:
            return nn.functional.layer_norm(x, x.shape[-1:], block[f"{name}.weight"], block[f"{name}.bias"])

        attention = nn.MultiheadAttention(SHAPE.width, SHAPE.heads).double()
        attention.load_state_dict({k[len("attn.") :]: v for k, v in block.items() if k.startswith("attn.")})
        h = norm(x, "ln_1")
        x = x + attention(h, h, h, need_weights=False, attn_mask=mask)[0]
        h = norm(x, "ln_2") @ block["mlp.c_fc.weight"].T + block["mlp.c_fc.bias"]
        x = x + (h / (1 + torch.exp(-1.702 * h))) @ block["mlp.c_proj.weight"].T + block["mlp.c_proj.bias"]
    x = nn.functional.layer_norm(x.permute(1, 0, 2), (SHAPE.width,), state["ln_final.weight"], state["ln_final.bias"])
    ends = [int((row == 49).nonzero()[0]) for row in tokens]
    feature: Tensor = torch.stack([x[i, end] for i, end in enumerate(ends)]) @ state["text_projection"]
    return feature


def test_equals_the_published_formulation(model: Model) -> None:
    tokens = captions([2, 5, 77, 12], SHAPE.context)
    torch.testing.assert_close(model.encode_text(tokens), published_encode_text(model, tokens), rtol=0, atol=1e-10)


def text_gradients(model: Model, found: Tensor) -> dict[str, Tensor]:
    weights = torch.arange(found.numel(), dtype=torch.float64).view_as(found).cos()
    parameters = {
        n: p for n, p in model.named_parameters() if not n.startswith(("visual.", "image_projection", "logit_"))
    }
    return dict(zip(parameters, torch.autograd.grad((found * weights).sum(), list(parameters.values())), strict=True))


@pytest.mark.parametrize("length", [7, 16, 76])
def test_cutting_to_the_longest_caption_changes_nothing(model: Model, length: int) -> None:
    tokens = captions([2, 5, 7], SHAPE.context)
    cut, full = model.encode_text(tokens[:, :length]), model.encode_text(tokens)
    torch.testing.assert_close(cut, full, rtol=0, atol=1e-12)
    grads, full_grads = text_gradients(model, cut), text_gradients(model, full)
    largest = max(float(grad.abs().max()) for grad in full_grads.values())
    for name, grad in full_grads.items():
        assert float((grads[name] - grad).abs().max()) < 1e-12 * largest, name
    assert not grads["positional_embedding"][7:].any()


def test_activation_checkpointing_changes_no_gradient(model: Model) -> None:
    tokens = captions([2, 5, 7], 7)
    found = model.encode_text(tokens)
    expected = text_gradients(model, found)
    model.transformer.activation_checkpointing = True
    calls: list[int] = []
    for number, block in enumerate(model.transformer.resblocks):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    again = model.encode_text(tokens)
    assert torch.equal(again, found)
    torch.testing.assert_close(text_gradients(model, again), expected, rtol=0, atol=1e-12)
    assert sorted(calls) == sorted([*range(SHAPE.layers), *range(SHAPE.layers)])
    calls.clear()
    with torch.no_grad():
        model.encode_text(tokens)
    assert calls == list(range(SHAPE.layers))


def test_what_follows_the_end_token_does_not_matter(model: Model) -> None:
    tokens = captions([2, 5, 7], SHAPE.context)
    other = torch.where(tokens == 0, 13, tokens)
    torch.testing.assert_close(model.encode_text(other), model.encode_text(tokens), rtol=0, atol=1e-12)


def test_a_token_does_not_see_what_comes_later(model: Model) -> None:
    x = torch.randn(2, 9, SHAPE.width, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5:] += 1
    found, other = model.transformer(x), model.transformer(changed)
    assert torch.equal(found[:, :5], other[:, :5])
    assert bool((found[:, 5:] != other[:, 5:]).any())


def test_the_feature_is_that_of_the_end_token(model: Model) -> None:
    tokens = captions([2, 5, 77, 12], SHAPE.context)
    x = model.token_embedding(tokens) + model.positional_embedding
    features = model.ln_final(model.transformer(x))
    expected = torch.stack([features[row, end] for row, end in enumerate((1, 4, 76, 11))])
    torch.testing.assert_close(model.text_features(tokens), expected, rtol=0, atol=1e-12)


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    shape = text_shape("vitb16", 77)
    assert (shape.width, shape.layers, shape.heads, shape.vocabulary) == (512, 12, 8, 49408)
    built = build(shape, tower="vitb16", embed_dim=512)
    expected = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "image_projection": 768**-0.5,
        "text_projection": 512**-0.5,
        "transformer.resblocks.3.attn.in_proj_weight": 512**-0.5,
        "transformer.resblocks.3.attn.out_proj.weight": 512**-0.5 * 24**-0.5,
        "transformer.resblocks.11.mlp.c_fc.weight": 1024**-0.5,
        "transformer.resblocks.11.mlp.c_proj.weight": 512**-0.5 * 24**-0.5,
    }
    state = dict(built.named_parameters())
    for name, std in expected.items():
        assert state[name].std().item() == pytest.approx(std, rel=0.02), name
        assert abs(state[name].mean().item()) < 5 * std / state[name].numel() ** 0.5, name
    assert state["logit_scale"].exp().item() == pytest.approx(1 / 0.07)
    for name in ("attn.in_proj_bias", "attn.out_proj.bias", "ln_1.bias"):
        assert not state[f"transformer.resblocks.0.{name}"].any()
