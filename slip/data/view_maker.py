"""An encoded picture and the parameters of its views to pixels, in one of two modes.

- reference: every view by itself with Pillow, as the published code does it (`slip.data.augment`).
- fast: one decode for all views, at a fraction of the resolution where every crop allows it; the crops by the compiled
  kernel (`slip.data.kernel`), or by torch where it was not built. What follows a crop (jitter, grey, blur, flip) is
  done here with the kernel or Pillow, or left to the device (`slip.data.device_augment`).

Pure: a view is a function of picture and parameters. Called by several threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from slip.data import kernel
from slip.data.augment import apply, recolour
from slip.data.decode import Box, Picture, Pixels, shrink_for
from slip.data.view_params import ViewParams, params_row

AugmentMode = Literal["fast", "reference"]


def _crop(pixels: Pixels, box: Box, size: int) -> Pixels:
    """A crop as (3, S, S), by torch."""
    left, top, right, bottom = box
    # Pillow's pixels cannot be written to, which torch warns of.
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    part = part if part.flags.writeable else part.copy()
    crop_13HW = torch.from_numpy(part).permute(2, 0, 1)[None]
    # Of uint8 and channels last: torch's vectorised path, within a step of 255 of Pillow's pixels.
    found = F.interpolate(crop_13HW, size=(size, size), mode="bilinear", antialias=True)
    return np.asarray(found[0].numpy())


def _crop_of_shrunk(pixels: Pixels, box: Box, shrink: int, size: int) -> Pixels:
    """The same of a picture at 1/shrink, whose box may end between pixels: torch knows no such boxes, Pillow does."""
    left, top, right, bottom = (edge / shrink for edge in box)
    x, y = int(left), int(top)
    part = Image.fromarray(pixels[y : math.ceil(bottom), x : math.ceil(right)])
    within = (left - x, top - y, min(right - x, part.width), min(bottom - y, part.height))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR, box=within)).transpose(2, 0, 1)


def _fill_reference(picture: Picture, params: Sequence[ViewParams], outs: Sequence[Pixels], size: int) -> None:
    image = Image.fromarray(picture.pixels())
    for view_params, out in zip(params, outs, strict=True):
        out[:] = apply(image, view_params, size).transpose(2, 0, 1)


def _fill_fast(
    picture: Picture, params: Sequence[ViewParams], outs: Sequence[Pixels], size: int, *, colours: bool
) -> None:
    boxes = [view_params.box for view_params in params]
    shrink = shrink_for(picture, boxes, size)
    pixels = picture.pixels(shrink)
    if kernel.available():
        rows = np.asarray([params_row(view_params) for view_params in params], dtype=np.float32)
        kernel.make_views(pixels, shrink, rows, outs, colours=colours)
        return
    for view_params, out in zip(params, outs, strict=True):
        box = view_params.box
        out[:] = _crop(pixels, box, size) if shrink == 1 else _crop_of_shrunk(pixels, box, shrink, size)
        if colours:
            crop = Image.fromarray(np.ascontiguousarray(out.transpose(1, 2, 0)))
            out[:] = np.asarray(recolour(crop, view_params)).transpose(2, 0, 1)


def fill_views(
    picture: Picture, params: Sequence[ViewParams], outs: Sequence[Pixels], *, mode: AugmentMode, colours: bool
) -> None:
    """Write one view for each of `params` into `outs`, arrays (3, S, S) of uint8.

    `colours` False leaves everything after the crop to the caller (the fast mode only). Raises DamagedImageError.
    """
    size = outs[0].shape[1]
    if mode == "reference":
        _fill_reference(picture, params, outs, size)
    else:
        _fill_fast(picture, params, outs, size, colours=colours)
