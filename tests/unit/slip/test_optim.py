"""Learning rate against the published formula written out, decay groups on the real model."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, integers

from slip.config import ModelConfig, ObjectiveConfig, OptimConfig
from slip.models.registry import build_model
from slip.optim import build_optimizer, decay_groups, decays, set_lr
from slip.schedule import lr_at, total_steps


def slow_schedule(config: OptimConfig, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step as two lists put together: a line, then half a cosine wave."""
    total = max(1, math.ceil(Fraction(str(config.epochs)) * steps_per_epoch))
    num_warm = 0
    while num_warm < config.warmup_epochs * steps_per_epoch:
        num_warm += 1
    length = config.warmup_epochs * steps_per_epoch
    line = [config.lr_start * (1 - i / length) + config.lr * i / length for i in range(num_warm)]
    wave = []
    for i in range(num_warm, total):
        share = (i - length) / (total - 1 - length) if total - 1 > length else 0.0
        wave.append(
            config.lr_end * (1 - math.cos(share * math.pi)) / 2 + config.lr * (1 + math.cos(share * math.pi)) / 2
        )
    return (line + wave)[:total]


@given(
    steps_per_epoch=integers(1, 40),
    epochs=integers(10, 700).map(lambda hundredths: hundredths / 100),
    warmup_epochs=floats(0, 3),
    global_batch=integers(1, 5000),
)
def test_learning_rate_is_that_of_the_formula(
    steps_per_epoch: int, epochs: float, warmup_epochs: float, global_batch: int
) -> None:
    config = OptimConfig(epochs=epochs, warmup_epochs=warmup_epochs, global_batch=global_batch)
    expected = slow_schedule(config, steps_per_epoch)
    assert len(expected) == total_steps(config, steps_per_epoch=steps_per_epoch)
    found = [lr_at(step, config, steps_per_epoch=steps_per_epoch) for step in range(len(expected))]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_first_peak_and_last_step_have_the_named_rates() -> None:
    config = OptimConfig(epochs=5, warmup_epochs=1, lr=3e-3, lr_start=1e-6, lr_end=1e-5)
    rates = [lr_at(step, config, steps_per_epoch=20) for step in range(100)]
    assert (rates[0], rates[20], rates[99]) == pytest.approx((1e-6, 3e-3, 1e-5))
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_the_global_batch_does_not_bend_the_schedule() -> None:
    config = OptimConfig(epochs=3)
    for step in (0, 3, 10, 29):
        small = lr_at(step, replace(config, global_batch=7), steps_per_epoch=10)
        assert small == pytest.approx(lr_at(step, replace(config, global_batch=4096), steps_per_epoch=10))


def test_decay_groups_of_the_published_model() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(tower="vits16"), ObjectiveConfig(name="slip"))
    named = dict(model.named_parameters())
    decayed = {name for name, parameter in named.items() if decays(name, parameter)}
    # Every matrix and embedding, the bias-free projections and the patch convolution; no vector.
    assert {"image_projection", "text_projection", "token_embedding.weight", "positional_embedding"} <= decayed
    assert {"visual.patch_embed.proj.weight", "visual.pos_embed", "visual.cls_token"} <= decayed
    assert {"transformer.resblocks.0.attn.in_proj_weight", "image_mlp.layer1.weight"} <= decayed
    plain = set(named) - decayed
    assert {"logit_scale", "ln_final.weight", "ln_final.bias", "image_mlp.bn1.weight", "visual.norm.weight"} <= plain
    assert all(named[name].ndim < 2 for name in plain)
    with_decay, without = decay_groups(model.named_parameters(), 0.1)
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in with_decay["params"]] == [id(p) for n, p in named.items() if n in decayed]  # type: ignore[attr-defined]
    assert [id(p) for p in without["params"]] == [id(p) for n, p in named.items() if n in plain]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("weight", (2, 2), True),
        ("weight", (2,), False),
        ("logit_scale", (), False),
        ("ln_1.weight", (2, 2), False),
        ("mlp.bn1.weight", (3, 3), False),
        ("attn.in_proj_bias", (3, 3), False),
    ],
)
def test_decay_goes_by_rank_and_name(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, torch.zeros(shape)) is expected


def test_one_step_is_adamws() -> None:
    layer = torch.nn.Linear(3, 2)
    config = OptimConfig(lr=0.1, weight_decay=0.5, betas=(0.9, 0.98))
    optimizer = build_optimizer(layer, config)
    set_lr(optimizer, 0.01)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    # After one step Adam's two moments are the gradient and its square, so it moves by the sign.
    assert torch.allclose(layer.weight, weight * (1 - 0.01 * 0.5) - 0.01, atol=1e-6)
    assert torch.allclose(layer.bias, bias - 0.01, atol=1e-6)
