from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slip.objectives.mim import mim_term, patch_targets


def slow_patch(view: Tensor, number: int, patch: int) -> Tensor:
    """Pixels of one patch, row by row with the colours of a pixel together, in units of their spread."""
    across = view.shape[-1] // patch
    top, left = number // across * patch, number % across * patch
    pixels = [view[colour, top + y, left + x].item() for y in range(patch) for x in range(patch) for colour in range(3)]
    mean = sum(pixels) / len(pixels)
    variance = sum((pixel - mean) ** 2 for pixel in pixels) / (len(pixels) - 1)
    return torch.tensor([(pixel - mean) / (variance + 1e-6) ** 0.5 for pixel in pixels], dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 4), grid=st.integers(1, 4), patch=st.integers(1, 4), seed=st.integers(0, 1000), data=st.data()
)
def test_targets_are_the_normalised_pixels_of_the_hidden_patches(
    rows: int, grid: int, patch: int, seed: int, data: st.DataObject
) -> None:
    draw = torch.Generator().manual_seed(seed)
    views = torch.randn(rows, 3, grid * patch, grid * patch, dtype=torch.float64, generator=draw) * 3 + 1
    num_hidden = data.draw(st.integers(1, grid**2))
    hidden = torch.rand(rows, grid**2, generator=draw).argsort(dim=1)[:, :num_hidden]
    found = patch_targets(views, hidden, patch)
    expected = [[slow_patch(view, int(n), patch) for n in numbers] for view, numbers in zip(views, hidden, strict=True)]
    assert found.shape == (rows, num_hidden, 3 * patch**2)
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in expected]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_targets_of_narrow_views_are_float32(dtype: torch.dtype) -> None:
    views = torch.randn(2, 3, 8, 8).to(dtype)
    found = patch_targets(views, torch.tensor([[0, 3], [1, 2]]), 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(2, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(dim=-1), torch.ones(2, 2), rtol=1e-3, atol=0)


def test_a_patch_of_one_colour_has_a_finite_target() -> None:
    assert not patch_targets(torch.full((1, 3, 4, 4), 0.5), torch.tensor([[0]]), 4).any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 5, 12)])
def test_loss_and_gradient_are_those_of_the_mean_squared_error(shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, *shape, dtype=torch.float64, generator=draw)
    predicted = predicted.clone().requires_grad_()
    term = mim_term(predicted, target)
    pairs = list(zip(predicted.flatten().tolist(), target.flatten().tolist(), strict=True))
    assert term.accuracy is None
    assert term.loss.item() == pytest.approx(sum((p - t) ** 2 for p, t in pairs) / len(pairs), rel=1e-12)
    (grad,) = torch.autograd.grad(term.loss, predicted)
    torch.testing.assert_close(grad, 2 * (predicted - target).detach() / len(pairs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_for_narrow_predictions_and_under_autocast(dtype: torch.dtype) -> None:
    predicted, target = torch.randn(2, 3, 4, 12, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mim_term(predicted.to(dtype), target).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(mim_term(predicted.to(dtype).double(), target.double()).loss.item(), rel=1e-5)
