from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.objectives.clip import clip_loss, clip_terms


def slow_clip_loss(images: list[list[float]], texts: list[list[float]], scale: float) -> float:
    """CLIP's figure 3, one pair at a time: mean of the image -> text and text -> image cross-entropies."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    total = 0.0
    for i in range(len(images)):
        to_texts = [math.exp(scale * cosine(images[i], text)) for text in texts]
        to_images = [math.exp(scale * cosine(image, texts[i])) for image in images]
        total += -math.log(to_texts[i] / sum(to_texts)) - math.log(to_images[i] / sum(to_images))
    return total / (2 * len(images))


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), width=st.integers(1, 6), scale=st.floats(0.5, 100.0), seed=st.integers(0, 1000))
def test_equals_the_formula(rows: int, width: int, scale: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, dtype=torch.float64, generator=draw)
    loss = clip_loss(image, text, torch.tensor(scale, dtype=torch.float64))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(slow_clip_loss(image.tolist(), text.tolist(), scale), rel=1e-10, abs=1e-10)


def test_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(2, 4, 3, dtype=torch.float64).unbind(0)
    inputs = (image.requires_grad_(), text.requires_grad_(), torch.tensor(3.0, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(clip_loss, inputs)


def test_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(2, 32, 16)
    scale = torch.tensor(100.0)
    exact = clip_loss(image.double(), text.double(), scale.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = clip_loss(image, text, scale)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)
    assert clip_loss(image.bfloat16(), text.bfloat16(), scale).dtype == torch.float32


def test_accuracy_is_the_share_of_images_that_pick_their_caption() -> None:
    image = torch.eye(4)
    text = torch.eye(4)[[0, 1, 3, 2]]
    assert clip_terms(image, text, torch.tensor(10.0))[1].item() == 0.5
