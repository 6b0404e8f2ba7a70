"""The views of a decoded picture in one call that releases the interpreter's lock: an optional compiled kernel.

In go the picture as bytes, decoded at the full size or at a half, a quarter or an eighth of it, and a row of numbers
for each view (`slip.data.view_params.params_row`); the views come out as bytes in arrays of the caller's. What is done
is `slip.data.augment.apply` in integers: the same bytes on every machine and nearly Pillow's. Most are equal; a crop
and each operation on colours differ by at most 1, a blur by at most 3 (it rounds six times). Rows are resized before
columns, as in Pillow, which from version 13 on begins with the columns of tall boxes.

Where it was not built (at installation a C compiler or Python's headers were missing) `available` is False, and callers
do without.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

try:
    from slip.data import _views
except ImportError:
    _views = None  # type: ignore[assignment]


def available() -> bool:
    """Whether the kernel was built."""
    return _views is not None


def make_views(
    pixels: npt.NDArray[np.uint8],
    shrink: int,
    params: npt.NDArray[np.float32],
    out: Sequence[npt.NDArray[np.uint8]],
    *,
    colours: bool,
) -> None:
    """Write one view into each array of `out`.

    Args:
        pixels: (height, width, 3), C-contiguous, decoded at 1/`shrink` of the full size.
        shrink: 1, 2, 4 or 8.
        params: (views, NUM_PARAMS), C-contiguous; boxes in whole pixels of the full size. Divided by `shrink` they may
            end within a pixel: samples lie in the exact box, and only pixels that it touches count.
        out: for each view an array (3, size, size), writable and C-contiguous, all of one size.
        colours: False makes only the crops, True also the jitter, grey, blur and flip that `params` ask for.

    Raises:
        ValueError: an argument has another shape or type, a box is not within the picture, or a colour's number is out
            of range (brightness, contrast and saturation 0 to 2, hue -1 to 1, radius 0 to 100); nothing was written.
        RuntimeError: the kernel was not built.
    """
    if _views is None:
        raise RuntimeError("the kernel slip.data._views was not built; install with a C compiler and Python's headers")
    _views.make_views(pixels, shrink, params, out, colours, len(_views.INSTRUCTION_SETS) - 1)
