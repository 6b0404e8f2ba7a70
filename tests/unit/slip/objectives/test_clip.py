from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slip.objectives import contrast
from slip.objectives.clip import clip_term


def slow_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's figure 3, one pair at a time: mean of the image -> text and text -> image cross-entropies."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / a.square().sum().sqrt() / b.square().sum().sqrt()

    n = len(image)
    logits = [[scale * cosine(image[i], text[j]) for j in range(n)] for i in range(n)]
    total = image.new_zeros(())
    for i in range(n):
        to_texts = torch.stack([logits[i][j].exp() for j in range(n)]).sum()
        to_images = torch.stack([logits[j][i].exp() for j in range(n)]).sum()
        total = total - (logits[i][i].exp() / to_texts).log() / 2 - (logits[i][i].exp() / to_images).log() / 2
    return total / n


def random_pair(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, dtype=torch.float64, generator=draw)
    return image.clone().requires_grad_(), text.clone().requires_grad_()


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 6),
    scale=st.floats(0.5, 100.0),
    seed=st.integers(0, 1000),
    block=st.sampled_from([1, 20, 1 << 25]),
)
def test_loss_and_gradients_equal_the_figure(rows: int, width: int, scale: float, seed: int, block: int) -> None:
    image, text = random_pair(rows, width, seed)
    scale_ = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "BLOCK_ELEMENTS", block)
        loss = clip_term(image, text, scale_).loss
    expected = slow_clip(image, text, scale_)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    inputs = (image, text, scale_)
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), rtol=1e-8, atol=1e-8
    )


def test_gradient_is_that_of_finite_differences() -> None:
    image, text = random_pair(4, 3, 0)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: clip_term(*inputs).loss, (image, text, scale))


def test_alone_both_ways_of_gathering_are_the_same() -> None:
    image, text = random_pair(6, 3, 1)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    grads = [
        torch.autograd.grad(clip_term(image, text, scale, gather).loss, (image, text, scale))
        for gather in ("exact", "paper")
    ]
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_is_float32_under_autocast() -> None:
    image, text = (x.detach() for x in random_pair(32, 16, 0))
    scale = torch.tensor(100.0, dtype=torch.float64)
    exact = clip_term(image, text, scale).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = clip_term(image.float(), text.float(), scale.float()).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_embeddings_give_a_float32_loss(dtype: torch.dtype) -> None:
    image, text = (x.detach().to(dtype).requires_grad_() for x in random_pair(8, 4, 0))
    term = clip_term(image, text, torch.tensor(10.0))
    expected = clip_term(image.detach().double(), text.detach().double(), torch.tensor(10.0, dtype=torch.float64))
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert torch.autograd.grad(term.loss, image)[0].dtype == dtype


def test_accuracy_is_the_share_of_images_that_pick_their_caption() -> None:
    text = torch.eye(4)[[0, 1, 3, 2]]
    accuracy = clip_term(torch.eye(4), text, torch.tensor(10.0)).accuracy
    assert accuracy is not None
    assert accuracy.item() == 0.5
