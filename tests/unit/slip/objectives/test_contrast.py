from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slip.objectives import contrast as module
from slip.objectives.clip import clip_term
from slip.objectives.contrast import contrast, row_blocks
from slip.objectives.mocov3 import mocov3_term
from slip.objectives.siglip import siglip_term
from slip.objectives.simclr import simclr_term
from slip.objectives.term import Term


def unit(rows: int, width: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, dtype=torch.float64, generator=draw), dim=1).requires_grad_()


def slow_contrast(query: Tensor, key: Tensor, scale: Tensor, own: Tensor, without: Tensor | None) -> Tensor:
    """One query at a time, with a plain softmax over the keys that take part."""
    total = query.new_zeros(())
    for i in range(len(query)):
        taking_part = [k for k in range(len(key)) if without is None or k != int(without[i])]
        exps = {k: (scale * (query[i] * key[k]).sum()).exp() for k in taking_part}
        total = total - (exps[int(own[i])] / torch.stack(list(exps.values())).sum()).log()
    return total / len(query)


def problem(
    queries: int, keys: int, seed: int, *, without: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    draw = torch.Generator().manual_seed(seed)
    own = torch.randint(keys, (queries,), generator=draw)
    other = (own + torch.randint(1, max(2, keys), (queries,), generator=draw)) % keys if without else None
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    return unit(queries, 5, seed), unit(keys, 5, seed + 1), scale, own, other


@settings(deadline=None, max_examples=40)
@given(
    queries=st.integers(1, 9),
    keys=st.integers(2, 11),
    seed=st.integers(0, 1000),
    without=st.booleans(),
    block=st.integers(1, 60),
)
def test_equals_a_plain_softmax_in_blocks_of_any_size(
    queries: int, keys: int, seed: int, without: bool, block: int
) -> None:
    query, key, scale, own, other = problem(queries, keys, seed, without=without)
    expected = slow_contrast(query, key, scale, own, other)
    expected_grads = torch.autograd.grad(expected, (query, key, scale))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ELEMENTS", block)
        loss, accuracy = contrast(query, key, scale, own, other)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, (query, key, scale)), expected_grads, rtol=0, atol=1e-12)
    similar = query @ key.T
    if other is not None:
        similar = similar.scatter(1, other[:, None], -2.0)
    assert accuracy.item() == pytest.approx(float((similar.argmax(dim=1) == own).double().mean()))
    assert not accuracy.requires_grad


@pytest.mark.parametrize("without", [False, True])
@pytest.mark.parametrize("block", [1, 14, 10_000])
def test_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch, block: int, without: bool) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    query, key, scale, own, other = problem(5, 7, 3, without=without)
    assert torch.autograd.gradcheck(lambda q, k, s: contrast(q, k, s, own, other)[0], (query, key, scale))


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradient_goes_only_where_it_is_wanted(wanted: tuple[bool, bool, bool]) -> None:
    query, key, scale, own, _ = problem(4, 6, 5, without=False)
    whole = torch.autograd.grad(contrast(query, key, scale, own)[0], (query, key, scale))
    inputs = [x.detach().requires_grad_(want) for x, want in zip((query, key, scale), wanted, strict=True)]
    torch.autograd.backward(3 * contrast(inputs[0], inputs[1], inputs[2], own)[0])
    for x, want, grad in zip(inputs, wanted, whole, strict=True):
        assert (x.grad is not None) == want
        if x.grad is not None:
            torch.testing.assert_close(x.grad, 3 * grad, rtol=0, atol=1e-12)


def test_without_gradient_none_is_computed() -> None:
    query, key, scale, own, _ = problem(4, 6, 5, without=False)
    with torch.no_grad():
        loss, _ = contrast(query, key, scale, own)
    assert not loss.requires_grad


@given(rows=st.integers(1, 40), columns=st.integers(0, 40), block=st.integers(1, 200))
def test_blocks_are_all_rows_once_and_no_larger_than_allowed(rows: int, columns: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ELEMENTS", block)
        blocks = list(row_blocks(rows, columns))
    assert [row for part in blocks for row in range(part.start, part.stop)] == list(range(rows))
    for part in blocks:
        assert (part.stop - part.start) * columns <= max(block, columns)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


G, D = 200, 4
TERMS: dict[str, Callable[[Tensor, Tensor], Term]] = {
    "clip": lambda a, b: clip_term(a, b, a.new_tensor(5.0)),
    "siglip": lambda a, b: siglip_term(a, b, a.new_tensor(5.0), a.new_tensor(-3.0)),
    "simclr": lambda a, b: simclr_term(a, b, 0.1),
    "mocov3": lambda a, b: mocov3_term((a, b), (b.detach(), a.detach()), 0.2),
}


def measured(term: Callable[[Tensor, Tensor], Term]) -> tuple[int, tuple[Tensor, ...]]:
    """Elements of the largest tensor in forward and backward pass, and loss and gradients."""
    a, b = (torch.randn(G, D, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (1, 2))
    with LargestTensor() as largest:
        loss = term(a, b).loss
        torch.autograd.backward(loss)
    assert a.grad is not None
    assert b.grad is not None
    return largest.elements, (loss.detach(), a.grad, b.grad)


@pytest.mark.parametrize("name", TERMS)
def test_similarities_are_never_held_all_at_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    largest, expected = measured(TERMS[name])
    assert largest >= G * G
    block = 3 * 2 * G
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    largest, found = measured(TERMS[name])
    # Embeddings of all ranks, both views side by side, are what remains.
    assert largest <= max(block, 2 * G * 2 * D)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
