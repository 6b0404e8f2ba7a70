"""The published views of a picture (github.com/facebookresearch/SLIP), in their reference form.

`draw_params` turns uniform numbers into the parameters of one view, with torchvision's distributions; `apply` makes the
view from picture and parameters and does what torchvision's transforms do to a PIL picture, pixel for pixel. Both
are pure, so a view depends on its key alone. Views leave as uint8; `normalise` comes after the copy to the
device (ToTensor starts from uint8, so nothing is lost).

- clip: RandomResizedCrop(scale .5-1)
- ssl: RandomResizedCrop(scale .08-1), ColorJitter(.4, .4, .4, .1) with p .8, grey with p .2, Gaussian blur with p .5
  (Pillow, radius .1-2), horizontal flip with p .5, in this order.

Letters: B samples, S side of the square view in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

ViewKind = Literal["clip", "ssl"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NUM_UNIFORMS = 53
"""Numbers `draw_params` needs: 10 x 4 for the crop, 9 for the jitter, 1 grey, 2 blur, 1 flip."""

_CROP_ATTEMPTS = 10
_CROP_RATIO = (3 / 4, 4 / 3)
_MIN_CROP_AREA = {"clip": 0.5, "ssl": 0.08}
_JITTER_P, _GREY_P, _BLUR_P, _FLIP_P = 0.8, 0.2, 0.5, 0.5
_BRIGHTNESS = _CONTRAST = _SATURATION = 0.4
_HUE = 0.1
_BLUR_RADIUS = (0.1, 2.0)

Pixels = npt.NDArray[np.uint8]


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


def _draw_box(width: int, height: int, min_area: float, uniforms: list[float]) -> tuple[int, int, int, int]:
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


def draw_params(kind: ViewKind, width: int, height: int, uniforms: npt.NDArray[np.float64]) -> ViewParams:
    """Parameters of one view of a picture of the given size, from `NUM_UNIFORMS` numbers in [0, 1).

    Every parameter has its own numbers, used or not, so one draw cannot shift another.
    """
    numbers: list[float] = uniforms.tolist()
    box = _draw_box(width, height, _MIN_CROP_AREA[kind], numbers[:40])
    if kind == "clip":
        return ViewParams(box=box)
    u_jitter, *u_factors = numbers[40:49]
    u_grey, u_blur, u_radius, u_flip = numbers[49:NUM_UNIFORMS]
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


def _shift_hue(image: Image.Image, hue: float) -> Image.Image:
    channels = image.convert("HSV").split()
    # The hue is a circle of 256 values: the sum wraps around.
    shifted = (np.asarray(channels[0]).astype(np.int32) + int(hue * 255)) & 255
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), *channels[1:])).convert("RGB")


def _apply_jitter(image: Image.Image, jitter: Jitter) -> Image.Image:
    for operation in jitter.order:
        if operation == 0:
            image = ImageEnhance.Brightness(image).enhance(jitter.brightness)
        elif operation == 1:
            image = ImageEnhance.Contrast(image).enhance(jitter.contrast)
        elif operation == 2:
            image = ImageEnhance.Color(image).enhance(jitter.saturation)
        else:
            image = _shift_hue(image, jitter.hue)
    return image


def apply(image: Image.Image, params: ViewParams, size: int) -> Pixels:
    """The view of an RGB picture as (S, S, 3)."""
    # Cropped first: `resize(box=...)` would let pixels outside the box bleed into its border.
    view = image.crop(params.box).resize((size, size), Image.Resampling.BILINEAR)
    if params.jitter is not None:
        view = _apply_jitter(view, params.jitter)
    if params.grey:
        view = view.convert("L").convert("RGB")
    if params.blur_radius is not None:
        view = view.filter(ImageFilter.GaussianBlur(radius=params.blur_radius))
    if params.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


def evaluation_view(image: Image.Image, size: int) -> Pixels:
    """The published view for evaluation, (S, S, 3): shorter side to `size` (bilinear), then the middle square."""
    short, long = sorted(image.size)
    longer = int(size * long / short)
    width, height = (size, longer) if image.width <= image.height else (longer, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def normalise(views_B3SS: Tensor) -> Tensor:
    """uint8 views to float32 with ImageNet's mean 0 and standard deviation 1 per colour, on the views' device."""
    mean = torch.tensor(IMAGENET_MEAN, device=views_B3SS.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=views_B3SS.device).view(3, 1, 1)
    return (views_B3SS.to(torch.float32) / 255 - mean) / std
