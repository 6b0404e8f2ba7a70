from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slip.objectives import contrast
from slip.objectives.simclr import simclr_term


def slow_nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """SimCLR's algorithm 1: 2N views, l(i, j) over all k != i, averaged over both directions of every pair."""
    views = [*a, *b]
    n = len(a)

    def sim(i: int, j: int) -> Tensor:
        dot = (views[i] * views[j]).sum()
        cosine: Tensor = dot / views[i].square().sum().sqrt() / views[j].square().sum().sqrt()
        return cosine

    def term(i: int, j: int) -> Tensor:
        below = torch.stack([(sim(i, k) / temperature).exp() for k in range(2 * n) if k != i]).sum()
        return -((sim(i, j) / temperature).exp() / below).log()

    return torch.stack([term(k, k + n) + term(k + n, k) for k in range(n)]).sum() / (2 * n)


def random_pair(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, rows, width, dtype=torch.float64, generator=draw)
    return a.clone().requires_grad_(), b.clone().requires_grad_()


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 7),
    width=st.integers(1, 6),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 1000),
    block=st.sampled_from([1, 30, 1 << 25]),
)
def test_loss_and_gradients_equal_the_formula(rows: int, width: int, temperature: float, seed: int, block: int) -> None:
    views = random_pair(rows, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "BLOCK_ELEMENTS", block)
        loss = simclr_term(*views, temperature).loss
    expected = slow_nt_xent(*views, temperature)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss, views), torch.autograd.grad(expected, views), rtol=1e-8, atol=1e-8
    )


def test_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda a, b: simclr_term(a, b, 0.1).loss, random_pair(4, 3, 0))


def test_one_picture_has_nothing_to_confuse_it_with() -> None:
    term = simclr_term(*random_pair(1, 3, 0), 0.1)
    assert term.loss.item() == pytest.approx(0.0, abs=1e-12)
    assert term.accuracy is not None
    assert term.accuracy.item() == 1.0


def test_is_float32_under_autocast() -> None:
    a, b = (x.detach() for x in random_pair(32, 16, 0))
    exact = simclr_term(a, b, 0.1).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = simclr_term(a.float(), b.float(), 0.1).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_embeddings_give_a_float32_loss(dtype: torch.dtype) -> None:
    a, b = (x.detach().to(dtype) for x in random_pair(8, 4, 0))
    loss = simclr_term(a, b, 0.1).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(simclr_term(a.double(), b.double(), 0.1).loss.item(), rel=1e-5)


def test_accuracy_is_the_share_of_views_that_pick_their_partner() -> None:
    accuracy = simclr_term(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]], 0.1).accuracy
    assert accuracy is not None
    assert accuracy.item() == 0.5
