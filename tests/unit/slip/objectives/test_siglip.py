from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slip.objectives import contrast
from slip.objectives.siglip import _Pairs, siglip_term


def slow_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's equation 1, one pair at a time."""
    n = len(image)
    total = image.new_zeros(())
    for i in range(n):
        for j in range(n):
            x, y = image[i] / image[i].square().sum().sqrt(), text[j] / text[j].square().sum().sqrt()
            z = 1 if i == j else -1
            total = total + (1 / (1 + torch.exp(z * (-scale * (x * y).sum() - bias)))).log()
    return -total / n


def inputs_of(rows: int, width: int, scale: float, bias: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, dtype=torch.float64, generator=draw)
    scalars = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (scale, bias))
    return image.clone().requires_grad_(), text.clone().requires_grad_(), *scalars


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 6),
    scale=st.floats(0.5, 20.0),
    bias=st.floats(-10.0, 5.0),
    seed=st.integers(0, 1000),
    block=st.sampled_from([1, 20, 1 << 25]),
)
def test_loss_and_gradients_equal_the_equation(
    rows: int, width: int, scale: float, bias: float, seed: int, block: int
) -> None:
    inputs = inputs_of(rows, width, scale, bias, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "BLOCK_ELEMENTS", block)
        loss = siglip_term(*inputs).loss
    expected = slow_siglip(*inputs)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("block", [1, 10, 10_000])
def test_gradient_of_pairs_is_that_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch, own: bool, block: int
) -> None:
    monkeypatch.setattr(contrast, "BLOCK_ELEMENTS", block)
    inputs = inputs_of(5, 3, 2.0, -1.0, 0)
    pairs: Callable[..., Tensor] = _Pairs.apply
    assert torch.autograd.gradcheck(lambda *x: pairs(*x, own), inputs)


def test_far_away_logits_stay_finite() -> None:
    image = torch.eye(3, dtype=torch.float32)
    loss = siglip_term(image, -image, torch.tensor(1e4), torch.tensor(-10.0)).loss
    assert loss.item() == pytest.approx(1e4 + 10, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_for_narrow_embeddings_and_under_autocast(dtype: torch.dtype) -> None:
    image, text, scale, bias = (x.detach() for x in inputs_of(8, 4, 10.0, -10.0, 0))
    narrow = (image.to(dtype), text.to(dtype))
    exact = siglip_term(narrow[0].double(), narrow[1].double(), scale, bias).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = siglip_term(*narrow, scale.float(), bias.float()).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("block", [1, 1 << 25])
def test_accuracy_is_the_share_of_images_that_pick_their_caption(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(contrast, "BLOCK_ELEMENTS", block)
    text = torch.eye(4)[[0, 1, 3, 2]]
    accuracy = siglip_term(torch.eye(4), text, torch.tensor(10.0), torch.tensor(-10.0)).accuracy
    assert accuracy is not None
    assert accuracy.item() == 0.5
    assert not accuracy.requires_grad
