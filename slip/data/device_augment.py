"""The device's part of the views: crops come as uint8, colours, blur, flip and normalisation happen here.

`finish_views` does to each row of a batch, with that row's own parameters, what `slip.data.augment.apply` does to a
picture after its crop, and then normalises. It holds no state and draws no numbers: all that is random is in the
parameters. `DeviceAugment` is its compiled form.

Nothing in here waits for the device, and shapes do not depend on data: all rows go through every operation, and
those it was not meant for keep what they had. Rows in the CPU's memory go one by one through what they need.

Letters: B samples, S side of the square view in pixels, P parameters; B111 is (B, 1, 1, 1), one number a sample.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD
from slip.data.device_colours import blend, gaussian_blur, in_rows, luma, mean_luma, rows_can_be_asked, shift_hue
from slip.data.view_params import PARAMS_COLUMNS

logger = logging.getLogger(__name__)


def _column(params_BP: Tensor, name: str) -> Tensor:
    return params_BP[:, PARAMS_COLUMNS.index(name)].view(-1, 1, 1, 1)


def _jitter_step(pixels_B3SS: Tensor, params_BP: Tensor, operation_B111: Tensor) -> Tensor:
    """One operation of the jitter, in each row its own: 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 nothing."""
    contrast_B111, saturation_B111 = operation_B111 == 1, operation_B111 == 2

    def blended() -> Tensor:
        black = torch.zeros_like(operation_B111)
        reference = in_rows(saturation_B111, lambda: luma(pixels_B3SS), black)
        reference = in_rows(contrast_B111, lambda: mean_luma(pixels_B3SS), reference)
        factor = torch.where(saturation_B111, _column(params_BP, "saturation"), _column(params_BP, "brightness"))
        return blend(pixels_B3SS, reference, torch.where(contrast_B111, _column(params_BP, "contrast"), factor))

    shifted = in_rows(operation_B111 == 3, lambda: shift_hue(pixels_B3SS, _column(params_BP, "hue")), pixels_B3SS)
    return in_rows((operation_B111 >= 0) & (operation_B111 < 3), blended, shifted)


def _coloured(pixels_B3SS: Tensor, params_BP: Tensor) -> Tensor:
    for name in ("first", "second", "third", "fourth"):
        pixels_B3SS = _jitter_step(pixels_B3SS, params_BP, _column(params_BP, name))
    grey_B111, radius_B111, flip_B111 = (_column(params_BP, name) for name in ("grey", "blur_radius", "flip"))
    jittered_B3SS = pixels_B3SS
    toned_B3SS = in_rows(grey_B111 > 0, lambda: luma(jittered_B3SS).expand_as(jittered_B3SS), jittered_B3SS)
    blurred_B3SS = in_rows(radius_B111 > 0, lambda: gaussian_blur(toned_B3SS, radius_B111), toned_B3SS)
    return in_rows(flip_B111 > 0, lambda: blurred_B3SS.flip(-1), blurred_B3SS)


def _per_colour(values: tuple[float, float, float], device: torch.device) -> Tensor:
    # (3, 1, 1), made on the device: the host would have to wait for a copy by `torch.tensor`.
    red, green, blue = values
    colour = torch.arange(3, device=device).view(3, 1, 1)
    return torch.where(colour == 0, red, torch.where(colour == 1, green, blue))


@torch.no_grad()
def finish_views(crops_B3SS: Tensor, params_BP: Tensor | None, *, colours: bool, dtype: torch.dtype) -> Tensor:
    """Normalised views, (B, 3, S, S) in `dtype` and without a graph.

    Everything is computed in float32, whatever `dtype` is: in bfloat16, colours of 100 photographs were 1.4/255 off
    Pillow's on average and up to 16/255; in float32 one number in 100,000 is 1/255 off.

    Args:
        crops_B3SS: uint8 RGB, on any device.
        params_BP: float32 on the same device; a row is a `slip.data.view_params.params_row`. Its box is not read.
        colours: whether to do what the parameters say (jitter, grey, blur and flip); else `params_BP` may be None.
    """
    mean_311, std_311 = (_per_colour(values, crops_B3SS.device) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def finish(crops: Tensor, params: Tensor | None) -> Tensor:
        pixels = crops.to(torch.float32)
        if colours:
            assert params is not None
            pixels = _coloured(pixels, params)
        return (pixels / 255).sub_(mean_311).div_(std_311).to(dtype)

    if not rows_can_be_asked(crops_B3SS):
        return finish(crops_B3SS, params_BP)
    views_B3SS = torch.empty(crops_B3SS.shape, dtype=dtype)
    for row in range(len(crops_B3SS)):  # one picture at a time also stays in the CPU's cache
        one = slice(row, row + 1)
        views_B3SS[one] = finish(crops_B3SS[one], None if params_BP is None else params_BP[one])
    return views_B3SS


class DeviceAugment:
    """`finish_views` for batches that come again and again in few shapes, compiled where that pays.

    Where compiling fails (no compiler, no Triton, a GPU that is too old), why is logged once and batches are made
    without it from then on.

    Args:
        device: where the crops will be.
        dtype: of the views.
        compiled: by default on a GPU. On a CPU it took 1.3 times as long as row by row, since all rows go through
            all operations.
    """

    def __init__(self, device: torch.device, *, dtype: torch.dtype, compiled: bool | None = None) -> None:
        self._dtype = dtype
        self._compile = device.type == "cuda" if compiled is None else compiled
        self._finish = finish_views
        if self._compile:
            try:
                self._finish = torch.compile(finish_views, dynamic=False, fullgraph=True)
            except RuntimeError as error:
                self._give_up(error)

    def __call__(self, crops_B3SS: Tensor, params_BP: Tensor | None) -> Tensor:
        """Views from crops, with colours where there are parameters; see `finish_views`."""
        colours = params_BP is not None
        try:
            return self._finish(crops_B3SS, params_BP, colours=colours, dtype=self._dtype)
        except RuntimeError as error:
            if not self._compile:
                raise
            self._give_up(error)
        # What is wrong with the batch or the device, not with the compiler, is raised here again.
        return self._finish(crops_B3SS, params_BP, colours=colours, dtype=self._dtype)

    def _give_up(self, error: RuntimeError) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("views are made without torch.compile, which failed: %s", reason)
        self._compile, self._finish = False, finish_views
