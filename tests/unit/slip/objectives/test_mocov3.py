from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slip.objectives import contrast
from slip.objectives.mocov3 import mocov3_term


def ctr(q: Tensor, k: Tensor, t: float) -> Tensor:
    """Algorithm 1 of MoCo v3: 2 t times the cross-entropy of q k^T / t with the diagonal as labels."""
    q, k = (x / x.square().sum(dim=1, keepdim=True).sqrt() for x in (q, k))
    total = q.new_zeros(())
    for i in range(len(q)):
        exps = torch.stack([((q[i] * k[j]).sum() / t).exp() for j in range(len(k))])
        total = total - (exps[i] / exps.sum()).log()
    return 2 * t * total / len(q)


def embeddings(rows: int, width: int, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    found = torch.randn(4, rows, width, dtype=torch.float64, generator=draw)
    q1, q2, k1, k2 = (x.clone().requires_grad_() for x in found)
    return (q1, q2), (k1, k2)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 6),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 1000),
    block=st.sampled_from([1, 20, 1 << 25]),
)
def test_loss_and_gradients_equal_the_algorithm(
    rows: int, width: int, temperature: float, seed: int, block: int
) -> None:
    queries, keys = embeddings(rows, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "BLOCK_ELEMENTS", block)
        loss = mocov3_term(queries, keys, temperature).loss
    expected = ctr(queries[0], keys[1].detach(), temperature) + ctr(queries[1], keys[0].detach(), temperature)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss, queries), torch.autograd.grad(expected, queries), rtol=1e-8, atol=1e-8
    )


def test_keys_get_no_gradient() -> None:
    queries, keys = embeddings(4, 3, 0)
    loss = mocov3_term(queries, keys, 0.2).loss
    assert list(torch.autograd.grad(loss, keys, allow_unused=True)) == [None, None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_for_narrow_embeddings_and_under_autocast(dtype: torch.dtype) -> None:
    queries, keys = ((x.detach().to(dtype), y.detach().to(dtype)) for x, y in embeddings(8, 4, 0))
    wide_queries, wide_keys = ((x.double(), y.double()) for x, y in (queries, keys))
    exact = mocov3_term(wide_queries, wide_keys, 0.2).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mocov3_term(queries, keys, 0.2).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


def test_accuracy_is_the_share_of_first_queries_that_pick_the_second_key() -> None:
    eye = torch.eye(4)
    accuracy = mocov3_term((eye, eye[[1, 0, 3, 2]]), (eye[[3, 2, 1, 0]], eye[[0, 1, 3, 2]]), 0.2).accuracy
    assert accuracy is not None
    assert accuracy.item() == 0.5
