from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from slip.models.momentum import MomentumTower, momentum_at


def parts() -> tuple[nn.Module, dict[str, nn.Module]]:
    torch.manual_seed(0)
    return nn.Linear(3, 4).double(), {"byol": nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).double()}


def test_starts_as_a_copy_without_gradient() -> None:
    visual, projectors = parts()
    momentum = MomentumTower(visual, projectors)
    for name, value in visual.state_dict().items():
        assert torch.equal(momentum.visual.state_dict()[name], value)
        assert momentum.visual.state_dict()[name].data_ptr() != value.data_ptr()
    assert not any(parameter.requires_grad for parameter in momentum.parameters())
    assert all(parameter.requires_grad for parameter in visual.parameters())


def test_every_weight_moves_by_the_published_share() -> None:
    visual, projectors = parts()
    momentum = MomentumTower(visual, projectors)
    expected = {name: value.clone() for name, value in momentum.named_parameters()}
    for m in (0.9, 0.5, 1.0, 0.0):
        with torch.no_grad():
            for parameter in (*visual.parameters(), *projectors["byol"].parameters()):
                parameter.add_(torch.randn_like(parameter))
        momentum.update(visual, projectors, m)
        followed = {f"visual.{n}": p for n, p in visual.named_parameters()}
        followed |= {f"projectors.byol.{n}": p for n, p in projectors["byol"].named_parameters()}
        for name, parameter in momentum.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * followed[name].detach()
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=1e-14)
    assert not any(parameter.requires_grad for parameter in momentum.parameters())


def test_running_statistics_are_its_own() -> None:
    visual, projectors = parts()
    momentum = MomentumTower(visual, projectors)
    projectors["byol"](torch.ones(5, 4, dtype=torch.float64))
    before = {name: value.clone() for name, value in momentum.named_buffers()}
    momentum.update(visual, projectors, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in momentum.named_buffers())


@given(last=st.integers(1, 10_000), first=st.floats(0, 1))
def test_schedule_begins_at_the_first_value_and_ends_at_one(last: int, first: float) -> None:
    assert momentum_at(0, last, first) == pytest.approx(first, abs=1e-15)
    assert momentum_at(last, last, first) == 1
    assert momentum_at(last + 5, last, first) == 1


def test_schedule_is_half_a_cosine() -> None:
    values = [momentum_at(step, 100, 0.99) for step in range(101)]
    assert values == pytest.approx([1 - 0.01 * (math.cos(math.pi * k / 100) + 1) / 2 for k in range(101)], abs=1e-15)
    assert values == sorted(values)


def test_a_run_of_one_step() -> None:
    assert momentum_at(0, 0, 0.99) == pytest.approx(0.99)
