"""Parameters have torchvision's distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from slip.data.view_params import (
    NUM_PARAMS,
    NUM_UNIFORMS,
    PARAMS_COLUMNS,
    Jitter,
    ViewKind,
    ViewParams,
    draw_params,
    params_row,
)
from slip.torchvision_compat import import_torchvision

import_torchvision()
from torchvision import transforms  # noqa: E402

DRAWS = 4000


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
    boxes = [draw_params(kind, *size, generator.random(NUM_UNIFORMS).tolist()).box for _ in range(DRAWS)]
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
    assert draw_params("clip", *size, numbers.tolist()).box == expected


def test_the_other_parameters_are_distributed_like_torchvisions() -> None:
    torch.manual_seed(5)
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs: list[Any] = [transforms.ColorJitter.get_params(*ranges) for _ in range(DRAWS)]
    generator = np.random.Generator(np.random.Philox(6))
    draws = [draw_params("ssl", 100, 100, generator.random(NUM_UNIFORMS).tolist()) for _ in range(5 * DRAWS // 4)]
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


def test_a_row_holds_every_parameter_under_its_name() -> None:
    jitter = Jitter(order=(2, 0, 3, 1), brightness=0.7, contrast=1.2, saturation=1.4, hue=-0.05)
    row = params_row(ViewParams(box=(1, 2, 30, 40), jitter=jitter, grey=True, blur_radius=1.5, flip=True))
    assert len(row) == NUM_PARAMS
    assert dict(zip(PARAMS_COLUMNS, row, strict=True)) == {
        "left": 1,
        "top": 2,
        "right": 30,
        "bottom": 40,
        "brightness": 0.7,
        "contrast": 1.2,
        "saturation": 1.4,
        "hue": -0.05,
        "first": 2,
        "second": 0,
        "third": 3,
        "fourth": 1,
        "grey": 1,
        "blur_radius": 1.5,
        "flip": 1,
    }
    plain = dict(zip(PARAMS_COLUMNS, params_row(ViewParams(box=(0, 0, 5, 5))), strict=True))
    assert [plain[name] for name in ("first", "second", "third", "fourth")] == [-1] * 4
    assert [plain[name] for name in ("grey", "blur_radius", "flip")] == [0, 0, 0]
