"""Which patches of a view the image tower is given, or has hidden from it: drawn like everything else of a sample.

In: a sample's number, the epoch, the view. Out: numbers of patches, counted along rows, ascending; always equally many,
so that a batch is a rectangle and a mean over a rank's patches is a mean over its samples.

Letters: N patches of a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slip.data.keyed import Purpose, uniforms

Int64Array = npt.NDArray[np.int64]
_MAX_BLOCKS = 64
_MIN_BLOCK = 16 / 196
"""Smallest block as a share of the view: BEiT's 16 of 14 x 14 patches."""
_MIN_ASPECT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchChoice:
    """How many patches of a view are chosen, and how."""

    grid: int = 0
    """Patches along a side."""
    kept: int = 0
    """Patches kept of each view that is not hidden; 0: all, and nothing is drawn."""
    hidden: int = 0
    """Patches hidden in the last view; 0: there is no hidden view."""


ALL_PATCHES = PatchChoice()


def _lowest(order_N: npt.NDArray[np.float64], count: int) -> Int64Array:
    return np.sort(np.argsort(order_N, kind="stable")[:count]).astype(np.int64)


def random_patches(uniforms_N: npt.NDArray[np.float64], count: int) -> Int64Array:
    """`count` of N patches, all equally likely (FLIP, 2212.00794, sec. 3): those with the lowest numbers."""
    return _lowest(uniforms_N, count)


def block_patches(drawn: npt.NDArray[np.float64], grid: int, count: int) -> Int64Array:
    """`count` patches in blocks (BEiT, 2106.08254, alg. 1): blocks of random area, shape and place until there are
    enough.

    A block is 16 of 196 patches or more, and no more than are missing; its sides' ratio is from .3 to 1/.3, evenly in
    the logarithm, as in BEiT's code. BEiT stops at about `count`; here exactly so many are left (or added, when no
    block fits), chosen evenly.

    Args:
        drawn: `num_uniforms(grid)` numbers in [0, 1).
    """
    blocks, order_N = drawn[: 4 * _MAX_BLOCKS].reshape(-1, 4), drawn[4 * _MAX_BLOCKS :]
    least = max(1, round(_MIN_BLOCK * grid * grid))
    hidden = np.zeros((grid, grid), dtype=bool)
    for area, shape, down, right in blocks:
        missing = count - int(hidden.sum())
        if missing <= 0:
            break
        size = least + area * max(0, missing - least)
        aspect = math.exp((2 * shape - 1) * math.log(1 / _MIN_ASPECT))
        height = min(grid, max(1, round(math.sqrt(size * aspect))))
        width = min(grid, max(1, round(math.sqrt(size / aspect))))
        top, left = int(down * (grid - height + 1)), int(right * (grid - width + 1))
        hidden[top : top + height, left : left + width] = True
    # Those in blocks come first, each group in random order.
    return _lowest(order_N - hidden.reshape(-1), count)


def num_uniforms(grid: int) -> int:
    """Numbers one choice takes."""
    return 4 * _MAX_BLOCKS + grid * grid


def choose(choice: PatchChoice, view: int, *, hide: bool, seed: int, sample_id: int, epoch: int) -> Int64Array:
    """The patches of one view of a sample in one epoch: kept ones, or with `hide` hidden ones."""
    where = (view, sample_id, epoch)
    drawn = uniforms(num_uniforms(choice.grid), seed=seed, purpose=Purpose.PATCHES, where=where)
    if hide:
        return block_patches(drawn, choice.grid, choice.hidden)
    return random_patches(drawn[-choice.grid * choice.grid :], choice.kept)
