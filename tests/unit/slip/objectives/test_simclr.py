from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.objectives.simclr import simclr_loss, simclr_terms


def slow_nt_xent(a: list[list[float]], b: list[list[float]], temperature: float) -> float:
    """SimCLR's algorithm 1: 2N views, l(i, j) over all k != i, averaged over both directions of every pair."""
    views = a + b
    n = len(a)

    def sim(i: int, j: int) -> float:
        dot = sum(x * y for x, y in zip(views[i], views[j], strict=True))
        return dot / math.sqrt(sum(x * x for x in views[i])) / math.sqrt(sum(y * y for y in views[j]))

    def term(i: int, j: int) -> float:
        below = sum(math.exp(sim(i, k) / temperature) for k in range(2 * n) if k != i)
        return -math.log(math.exp(sim(i, j) / temperature) / below)

    return sum(term(k, k + n) + term(k + n, k) for k in range(n)) / (2 * n)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), width=st.integers(1, 6), temperature=st.floats(0.05, 2.0), seed=st.integers(0, 1000))
def test_equals_the_formula(rows: int, width: int, temperature: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, rows, width, dtype=torch.float64, generator=draw)
    loss = simclr_loss(a, b, temperature)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(slow_nt_xent(a.tolist(), b.tolist(), temperature), rel=1e-10, abs=1e-10)


def test_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 3, dtype=torch.float64).unbind(0)
    assert torch.autograd.gradcheck(lambda x, y: simclr_loss(x, y, 0.1), (a.requires_grad_(), b.requires_grad_()))


def test_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 32, 16)
    exact = simclr_loss(a.double(), b.double(), 0.1).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = simclr_loss(a, b, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


def test_accuracy_is_the_share_of_views_that_pick_their_partner() -> None:
    a = torch.eye(4)
    b = torch.eye(4)[[0, 1, 3, 2]]
    assert simclr_terms(a, b, 0.1)[1].item() == 0.5
