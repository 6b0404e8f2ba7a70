from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slip.objectives.byol import byol_term


def slow_byol(predictions: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Equation 2, 2 - 2 <q, z> / (|q| |z|), and the same with the views exchanged; the mean over rows."""
    total = predictions[0].new_zeros(())
    for q_rows, z_rows in ((predictions[0], targets[1]), (predictions[1], targets[0])):
        for q, z in zip(q_rows, z_rows, strict=True):
            total = total + 2 - 2 * (q * z).sum() / (q.square().sum().sqrt() * z.square().sum().sqrt())
    return total / len(predictions[0])


def embeddings(rows: int, width: int, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    found = torch.randn(4, rows, width, dtype=torch.float64, generator=draw)
    q1, q2, z1, z2 = (x.clone().requires_grad_() for x in found)
    return (q1, q2), (z1, z2)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), width=st.integers(1, 6), seed=st.integers(0, 1000))
def test_loss_and_gradients_equal_the_equation(rows: int, width: int, seed: int) -> None:
    predictions, targets = embeddings(rows, width, seed)
    term = byol_term(predictions, targets)
    expected = slow_byol(predictions, (targets[0].detach(), targets[1].detach()))
    assert term.accuracy is None
    assert term.loss.dtype == torch.float64
    torch.testing.assert_close(term.loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(term.loss, predictions), torch.autograd.grad(expected, predictions), rtol=1e-9, atol=1e-9
    )


def test_gradient_is_that_of_finite_differences() -> None:
    predictions, targets = embeddings(4, 3, 0)
    assert torch.autograd.gradcheck(lambda one, two: byol_term((one, two), targets).loss, predictions)


def test_targets_get_no_gradient() -> None:
    predictions, targets = embeddings(4, 3, 0)
    loss = byol_term(predictions, targets).loss
    assert list(torch.autograd.grad(loss, targets, allow_unused=True)) == [None, None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_for_narrow_embeddings_and_under_autocast(dtype: torch.dtype) -> None:
    predictions, targets = ((x.detach().to(dtype), y.detach().to(dtype)) for x, y in embeddings(8, 4, 0))
    exact = byol_term(*((x.double(), y.double()) for x, y in (predictions, targets))).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = byol_term(predictions, targets).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)
