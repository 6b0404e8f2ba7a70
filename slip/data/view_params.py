"""What is done to a picture for each of its views: parameters drawn with the published distributions.

`draw_params` turns uniform numbers into the parameters of one view, with torchvision's distributions
(github.com/facebookresearch/SLIP). It is pure, so with numbers keyed by (seed, sample, epoch, view) a view depends on
its key alone: not on the worker, the rank, the order, or on how the pixels are made (see `slip.data.augment`).

- clip: RandomResizedCrop(scale .5-1)
- ssl: RandomResizedCrop(scale .08-1), ColorJitter(.4, .4, .4, .1) with p .8, grey with p .2, Gaussian blur with p .5
  (Pillow, radius .1-2), horizontal flip with p .5, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ViewKind = Literal["clip", "ssl"]

NUM_UNIFORMS = 53
"""Numbers `draw_params` needs: 10 x 4 for the crop, 9 for the jitter, 1 grey, 2 blur, 1 flip."""

_CROP_ATTEMPTS = 10
_CROP_RATIO = (3 / 4, 4 / 3)
_MIN_CROP_AREA = {"clip": 0.5, "ssl": 0.08}
_JITTER_P, _GREY_P, _BLUR_P, _FLIP_P = 0.8, 0.2, 0.5, 0.5
_BRIGHTNESS = _CONTRAST = _SATURATION = 0.4
_HUE = 0.1
_BLUR_RADIUS = (0.1, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """A colour jitter: `order` is a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue."""

    order: tuple[int, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewParams:
    """What is done to the picture, in the order of the fields."""

    box: tuple[int, int, int, int]
    """left, top, right, bottom of the crop, in pixels of the picture."""
    jitter: Jitter | None = None
    grey: bool = False
    blur_radius: float | None = None
    flip: bool = False


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform


def _draw_box(width: int, height: int, min_area: float, uniforms: Sequence[float]) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params, four numbers an attempt."""
    low, high = math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])
    for attempt in range(_CROP_ATTEMPTS):
        u_area, u_ratio, u_top, u_left = uniforms[4 * attempt : 4 * attempt + 4]
        area = width * height * _between(min_area, 1.0, u_area)
        ratio = math.exp(_between(low, high, u_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(u_top * (height - h + 1)), int(u_left * (width - w + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < _CROP_RATIO[0]:
        h = round(w / _CROP_RATIO[0])
    elif width / height > _CROP_RATIO[1]:
        w = round(h * _CROP_RATIO[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def draw_params(kind: ViewKind, width: int, height: int, uniforms: Sequence[float]) -> ViewParams:
    """Parameters of one view of a picture of the given size, from `NUM_UNIFORMS` numbers in [0, 1).

    Every parameter has its own numbers, used or not, so one draw cannot shift another.
    """
    box = _draw_box(width, height, _MIN_CROP_AREA[kind], uniforms[:40])
    if kind == "clip":
        return ViewParams(box=box)
    u_jitter, *u_factors = uniforms[40:49]
    u_grey, u_blur, u_radius, u_flip = uniforms[49:NUM_UNIFORMS]
    jitter = None
    if u_jitter < _JITTER_P:
        jitter = Jitter(
            order=tuple(sorted(range(4), key=u_factors[:4].__getitem__)),
            brightness=_between(1 - _BRIGHTNESS, 1 + _BRIGHTNESS, u_factors[4]),
            contrast=_between(1 - _CONTRAST, 1 + _CONTRAST, u_factors[5]),
            saturation=_between(1 - _SATURATION, 1 + _SATURATION, u_factors[6]),
            hue=_between(-_HUE, _HUE, u_factors[7]),
        )
    return ViewParams(
        box=box,
        jitter=jitter,
        grey=u_grey < _GREY_P,
        blur_radius=_between(*_BLUR_RADIUS, u_radius) if u_blur < _BLUR_P else None,
        flip=u_flip < _FLIP_P,
    )


PARAMS_COLUMNS = (
    *("left", "top", "right", "bottom"),
    *("brightness", "contrast", "saturation", "hue"),
    *("first", "second", "third", "fourth"),
    *("grey", "blur_radius", "flip"),
)
"""What the numbers of a `params_row` are. first to fourth: operations of the jitter (0 brightness, 1 contrast, 2
saturation, 3 hue), -1 where there is no jitter; grey and flip are 0 or 1; a blur radius of 0 is no blur."""

NUM_PARAMS = len(PARAMS_COLUMNS)


def params_row(params: ViewParams) -> tuple[float, ...]:
    """The parameters as `NUM_PARAMS` numbers that float32 holds exactly enough: what kernels and devices take."""
    jitter = params.jitter
    colours: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0, -1, -1, -1, -1)
    if jitter is not None:
        colours = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, *jitter.order)
    return (*params.box, *colours, params.grey, params.blur_radius or 0.0, params.flip)
