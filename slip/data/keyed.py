"""Random numbers that belong to a place in the run instead of to a moment: the same key gives the same numbers.

A draw is keyed by the run's seed, what it is for, and where it is used (epoch, sample, view). Nothing is kept
between calls, so the numbers do not depend on who asks, in which order, or from where a run was resumed.

They are Philox-4x64-10's raw output (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Raw output
of a bit generator is what numpy promises never to change; its distributions (`random`, `permutation`) carry no such
promise and are not used.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_WORD = 1 << 64


class Purpose(IntEnum):
    """What a draw decides; draws for different purposes are independent. Values must never change."""

    SHARD_ORDER = 0
    FIRST_SAMPLE = 1
    WINDOW_ORDER = 2
    CAPTION = 3
    VIEW = 4


def raw_bits(count: int, *, seed: int, purpose: Purpose, where: tuple[int, int, int]) -> npt.NDArray[np.uint64]:
    """`count` independent uniform 64-bit numbers for one place, each of whose coordinates is below 2**64."""
    # The counter's lowest word counts within the draw; the other three are the place.
    counter = sum(part << (64 * (i + 1)) for i, part in enumerate(where))
    generator = np.random.Philox(key=(seed % _WORD) | (int(purpose) << 64), counter=counter)
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


def uniforms(count: int, *, seed: int, purpose: Purpose, where: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """`count` independent numbers in [0, 1), multiples of 2**-53."""
    bits = raw_bits(count, seed=seed, purpose=purpose, where=where)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def permutation(count: int, *, seed: int, purpose: Purpose, where: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """A random order of range(count)."""
    bits = raw_bits(count, seed=seed, purpose=purpose, where=where)
    return np.argsort(bits, kind="stable").astype(np.int64)
