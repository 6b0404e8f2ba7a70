"""The compiled part of `slip.data.kernel`, which says what the arguments are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

INSTRUCTION_SETS: tuple[str, ...]

def make_views(
    pixels: npt.NDArray[np.uint8],
    shrink: int,
    params: npt.NDArray[np.float32],
    out: Sequence[npt.NDArray[np.uint8]],
    colours: bool,
    instruction_set: int,
    /,
) -> None: ...
