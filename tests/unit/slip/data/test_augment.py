"""Against torchvision: equal parameters give equal pixels, and parameters have equal distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from slip.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NUM_UNIFORMS,
    Jitter,
    ViewKind,
    ViewParams,
    apply,
    draw_params,
    evaluation_view,
    normalise,
)
from slip.torchvision_compat import import_torchvision

import_torchvision()
from torchvision import transforms  # noqa: E402
from torchvision.transforms import functional  # noqa: E402

DRAWS = 4000
GENERATOR = np.random.Generator(np.random.Philox(11))
SMALL = GENERATOR.integers(0, 256, (13, 17, 3), dtype=np.uint8)
NOISE = GENERATOR.normal(0, 12, (180, 240, 3))
PHOTO = Image.fromarray(
    np.clip(np.asarray(Image.fromarray(SMALL).resize((240, 180), Image.Resampling.BICUBIC)) + NOISE, 0, 255).astype(
        np.uint8
    )
)


def torchvision_view(image: Image.Image, params: ViewParams, size: int) -> npt.NDArray[np.uint8]:
    """What the published transforms do once their parameters are drawn."""
    left, top, right, bottom = params.box
    view = functional.resized_crop(image, top, left, bottom - top, right - left, [size, size])
    if params.jitter is not None:
        steps = [
            (functional.adjust_brightness, params.jitter.brightness),
            (functional.adjust_contrast, params.jitter.contrast),
            (functional.adjust_saturation, params.jitter.saturation),
            (functional.adjust_hue, params.jitter.hue),
        ]
        for number in params.jitter.order:
            operation, factor = steps[number]
            view = operation(view, factor)
    if params.grey:
        view = functional.rgb_to_grayscale(view, num_output_channels=3)
    if params.blur_radius is not None:
        view = view.filter(ImageFilter.GaussianBlur(radius=params.blur_radius))
    if params.flip:
        view = functional.hflip(view)
    return np.asarray(view)


@pytest.mark.parametrize("kind", ["clip", "ssl"])
def test_pixels_are_torchvisions(kind: ViewKind) -> None:
    seen = {"jitter": 0, "grey": 0, "blur": 0, "flip": 0}
    for _ in range(60):
        params = draw_params(kind, *PHOTO.size, GENERATOR.random(NUM_UNIFORMS))
        seen["jitter"] += params.jitter is not None
        seen["grey"] += params.grey
        seen["blur"] += params.blur_radius is not None
        seen["flip"] += params.flip
        found = apply(PHOTO, params, 96)
        assert found.shape == (96, 96, 3)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, torchvision_view(PHOTO, params, 96))
    assert all(seen.values()) if kind == "ssl" else not any(seen.values())


@given(hue=st.floats(-0.1, 0.1))
def test_every_hue_is_torchvisions(hue: float) -> None:
    jitter = Jitter(order=(3, 0, 1, 2), brightness=1.0, contrast=1.0, saturation=1.0, hue=hue)
    params = ViewParams(box=(0, 0, *PHOTO.size), jitter=jitter)
    np.testing.assert_array_equal(apply(PHOTO, params, 32), torchvision_view(PHOTO, params, 32))


def largest_gap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov: the largest distance between two empirical distribution functions."""
    both = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


# Two samples of 4000 from one distribution are further apart than this once in 10,000 times.
KS_LIMIT = (np.log(2 / 1e-4) / 2) ** 0.5 * (2 / DRAWS) ** 0.5


@pytest.mark.parametrize(("kind", "scale"), [("clip", (0.5, 1.0)), ("ssl", (0.08, 1.0))])
@pytest.mark.parametrize("size", [(240, 180), (90, 200), (500, 60), (37, 37)])
def test_boxes_are_distributed_like_torchvisions(
    kind: ViewKind, scale: tuple[float, float], size: tuple[int, int]
) -> None:
    torch.manual_seed(3)
    image = Image.new("RGB", size)
    get_params = transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(DRAWS)], dtype=np.float64)
    generator = np.random.Generator(np.random.Philox(4))
    boxes = [draw_params(kind, *size, generator.random(NUM_UNIFORMS)).box for _ in range(DRAWS)]
    ours = np.array([(top, left, bottom - top, right - left) for left, top, right, bottom in boxes], dtype=np.float64)
    for column in range(4):
        assert largest_gap(ours[:, column], theirs[:, column]) < KS_LIMIT
    assert largest_gap(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < KS_LIMIT
    assert largest_gap(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]) < KS_LIMIT


@pytest.mark.parametrize("size", [(500, 20), (20, 500), (100, 100), (1, 1), (3, 2)])
def test_when_no_crop_fits_the_middle_is_taken(size: tuple[int, int]) -> None:
    # torchvision's own, reached by asking for ten times the picture.
    get_params: Any = transforms.RandomResizedCrop.get_params
    top, left, height, width = get_params(Image.new("RGB", size), [10.0, 10.0], [3 / 4, 4 / 3])
    # A ratio of 4/3 or 3/4 with the full area never fits, except where it rounds to the picture itself.
    numbers = np.zeros(NUM_UNIFORMS)
    numbers[0:40:4] = 1 - 2**-53
    numbers[1:40:4] = 1 - 2**-53 if size[0] <= size[1] else 0.0
    expected = (0, 0, 1, 1) if size == (1, 1) else (left, top, left + width, top + height)
    assert draw_params("clip", *size, numbers).box == expected


def test_the_other_parameters_are_distributed_like_torchvisions() -> None:
    torch.manual_seed(5)
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs: list[Any] = [transforms.ColorJitter.get_params(*ranges) for _ in range(DRAWS)]
    generator = np.random.Generator(np.random.Philox(6))
    draws = [draw_params("ssl", 100, 100, generator.random(NUM_UNIFORMS)) for _ in range(5 * DRAWS // 4)]
    ours = [draw.jitter for draw in draws if draw.jitter is not None]
    for number, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        a = np.array([getattr(j, name) for j in ours])
        assert largest_gap(a, np.array([j[number + 1] for j in theirs])) < 1.05 * KS_LIMIT
    orders, counts = np.unique([j.order for j in ours], axis=0, return_counts=True)
    assert len(orders) == 24
    expected = len(ours) / 24
    assert ((counts - expected) ** 2 / expected).sum() < 55  # chi-square, 23 degrees: 1 in 5,000
    num = len(draws)
    for share, expected_share in (
        (len(ours) / num, 0.8),
        (sum(d.grey for d in draws) / num, 0.2),
        (sum(d.blur_radius is not None for d in draws) / num, 0.5),
        (sum(d.flip for d in draws) / num, 0.5),
    ):
        assert abs(share - expected_share) < 4 * (expected_share * (1 - expected_share) / num) ** 0.5
    radii = np.array([d.blur_radius for d in draws if d.blur_radius is not None])
    assert largest_gap(radii, generator.uniform(0.1, 2.0, DRAWS)) < 1.3 * KS_LIMIT


@pytest.mark.parametrize("size", [(240, 180), (180, 240), (100, 100), (501, 37), (33, 48)])
def test_evaluation_view_is_torchvisions(size: tuple[int, int]) -> None:
    image = PHOTO.resize(size)
    reference = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    np.testing.assert_array_equal(evaluation_view(image, 64), np.asarray(reference(image)))


def test_normalise_is_to_tensor_and_normalize() -> None:
    views = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    expected = torch.stack([reference(Image.fromarray(view.permute(1, 2, 0).numpy())) for view in views])
    found = normalise(views)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
