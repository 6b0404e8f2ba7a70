"""Pillow's arithmetic on batches of pictures: what changes colours and blurs, for `slip.data.device_augment`.

Pictures come and go as float32 that hold the integers 0 to 255, because Pillow rounds to them after every operation;
where it truncates, this truncates. So nearly every pixel is Pillow's (src/libImaging/Blend.c, Convert.c, BoxBlur.c).

All pixels go through the same formulas, without masks: on a CPU PyTorch's `==` and `where` take six times as long as
a sum. Only rows are told apart, by `in_rows`.

Letters: B samples, S side of a picture in pixels; B111 is (B, 1, 1, 1), one number a sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_WEIGHT_UNIT = float(1 << 24)
"""Pillow's weights of a blur are integers over this; float32 holds them exactly."""


def rows_can_be_asked(rows: Tensor) -> bool:
    """Whether code may depend on what a row holds: not while it is compiled, nor where the host would have to wait."""
    return rows.device.type == "cpu" and not torch.compiler.is_compiling()


def in_rows(chosen_B111: Tensor, make: Callable[[], Tensor], others: Tensor) -> Tensor:
    """`make()` in the rows that are chosen, `others` in the rest.

    It is made for all rows and then selected, but a single row that can be asked gets only what it needs.
    """
    if len(chosen_B111) == 1 and rows_can_be_asked(chosen_B111):
        return make() if bool(chosen_B111) else others
    return torch.where(chosen_B111, make(), others)


def luma(pixels_B3SS: Tensor) -> Tensor:
    """Pillow's L of RGB, (B, 1, S, S). Every number on the way is an integer below 2**24: exact in float32."""
    red, green, blue = pixels_B3SS.chunk(3, dim=1)
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(0x8000).mul_(1 / 65536).floor_()


def mean_luma(pixels_B3SS: Tensor) -> Tensor:
    """The mean of L as the integer that Pillow's contrast takes, (B, 1, 1, 1); exact up to 256 pixels a side."""
    return (luma(pixels_B3SS).mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor()


def blend(pixels_B3SS: Tensor, reference: Tensor, factor_B111: Tensor) -> Tensor:
    """Pillow's blend: brightness with 0 as reference, contrast with `mean_luma`, saturation with `luma`."""
    return (pixels_B3SS - reference).mul_(factor_B111).add_(reference).clamp_(0, 255).floor_()


def _divide(numerator: Tensor, denominator: Tensor | float) -> Tensor:
    # Triton's quotients of float32 may be off in the last bit, those of float64 are not, and rounded to float32 they
    # are the right ones. Hues are often exactly between two integers, where the last bit decides.
    return numerator.double().div(denominator).to(numerator.dtype) if numerator.is_cuda else numerator / denominator


def _to_hsv(pixels_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pillow's HSV as three of (B, 1, S, S): integers from 0 to 255."""
    red, green, blue = pixels_B3SS.chunk(3, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # 0 where that colour is the greatest, else 1; red goes before green and green before blue.
    not_red, not_green = (value - red).clamp_(max=1), (value - green).clamp_(max=1)
    sixths = (not_green * 2).add_(2).mul_(not_red)
    turn = torch.lerp(green - blue, torch.lerp(blue - red, red - green, not_green), not_red)
    # The hue is sixths + turn / chroma, but Pillow divides the distance between the two greatest colours and rounds
    # that. With turn / chroma 0.2 % of all colours had a hue one off.
    side = turn.sign()
    hue = (sixths + side).sub_(_divide(side * chroma - turn, chroma.clamp(min=1)))
    circle = _divide(hue, 6.0)
    hue = circle.sub_(circle.floor()).mul_(255).floor_()
    # Half a unit more, in case quotients come out too small; no fraction of `value` is near enough to the next integer.
    saturation = (chroma * 255).add_(0.5).div_(value.clamp(min=1)).floor_()
    return hue, saturation, value


def shift_hue(pixels_B3SS: Tensor, hue_B111: Tensor) -> Tensor:
    """torchvision's adjust_hue on a PIL picture; `hue_B111` is a part of the circle, from -0.5 to 0.5."""
    hue, saturation, value = _to_hsv(pixels_B3SS)
    hue = hue + (hue_B111 * 255).trunc()
    # From here on a circle is 6 * 255 and all numbers are integers, up to the division.
    hue = hue.sub_((hue / 256).floor_().mul_(256)).mul_(6)
    pure_311 = torch.arange(0, 6 * 255, 2 * 255, device=hue.device).view(3, 1, 1)
    # A colour is as great as the greatest up to 255 from its pure hue, as small as the smallest from 510.
    ahead = (hue - pure_311).abs_()
    missing = ahead.sub_(3 * 255).abs_().neg_().add_(2 * 255).clamp_(0, 255)
    return value - missing.mul_(saturation.mul_(value)).div_(255 * 255).round_()


def _box_weights(radius_B111: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a pixel, its neighbours and theirs in the boxes Pillow makes a Gaussian blur of.

    Extended boxes (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering"):
    2 * whole + 1 pixels count fully, and one at either end gets what is left of 1.
    """
    variance = radius_B111 * radius_B111 / 3
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) * (whole + 1)))
    size = whole + part
    whole = size.floor()
    full = (_WEIGHT_UNIT / (2 * size + 1)).floor()
    end = ((_WEIGHT_UNIT - (2 * whole + 1) * full) / 2).floor()
    full, end = full / _WEIGHT_UNIT, end / _WEIGHT_UNIT
    # Through one tensor, which torch.compile keeps: else it works the weights out again for every pixel and computes
    # boxes inside boxes; that took it 13.6 s of CPU time instead of 7.8.
    own, near, far = torch.cat([full, torch.lerp(end, full, whole), end * whole], dim=1).chunk(3, dim=1)
    return own, near, far


def _box_blur(pixels_B3SS: Tensor, weights: tuple[Tensor, Tensor, Tensor], dim: int) -> Tensor:
    own, near, far = weights
    size = pixels_B3SS.shape[dim]
    padded = F.pad(pixels_B3SS, (2, 2, 0, 0) if dim == 3 else (0, 0, 2, 2), mode="replicate")

    def pair(distance: int) -> Tensor:
        return padded.narrow(dim, 2 - distance, size) + padded.narrow(dim, 2 + distance, size)

    blurred = (pixels_B3SS * own).add_(pair(1).mul_(near))
    # Most radii need no far pixels; where that cannot be asked, their weight is 0.
    if not rows_can_be_asked(far) or bool(far.any()):
        blurred.add_(pair(2).mul_(far))
    return blurred.add_(0.5).floor_()


def gaussian_blur(pixels_B3SS: Tensor, radius_B111: Tensor) -> Tensor:
    """Pillow's GaussianBlur for radii from 0 to 2.4: three boxes along the rows, then three along the columns.

    Pillow rounds after each. One kernel of 13 weights instead of three boxes took 0.7 of the time on a CPU, but changed
    a quarter of the numbers of 40 photographs, by up to 28/255 at their borders; the boxes change one in a million.
    """
    weights = _box_weights(radius_B111)
    for dim in (3, 3, 3, 2, 2, 2):
        pixels_B3SS = _box_blur(pixels_B3SS, weights, dim)
    return pixels_B3SS
