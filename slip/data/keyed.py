"""Random numbers that belong to a place in the run instead of to a moment: the same key gives the same numbers.

A draw is keyed by the run's seed, what it is for, and where it is used (epoch, sample, view). Nothing is kept
between calls, so the numbers do not depend on who asks, in which order, or from where a run was resumed.

They are Philox-4x64-10's raw output (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Raw output
of a bit generator is what numpy promises never to change; its distributions (`random`, `permutation`) carry no such
promise and are not used. Where an epoch needs a number for each of millions of samples, Philox gives a seed for
each stream of them and SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014, fig. 16)
the numbers: a few operations each, on whole arrays.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_WORD = 1 << 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a draw decides; draws for different purposes are independent. Values must never change."""

    SHARD_ORDER = 0
    FIRST_SAMPLE = 1
    WINDOW_ORDER = 2
    SAMPLE = 3
    """Caption and views of a sample in one epoch."""
    PATCHES = 4
    """Patches of a view that are kept or hidden."""


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


def stream_bits(seed: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """Outputs [first, first + count) of SplitMix64 seeded with `seed`: independent uniform 64-bit numbers."""
    bits = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    bits *= _GOLDEN
    bits += np.uint64(seed % _WORD)
    bits ^= bits >> np.uint64(30)
    bits *= _MIX_1
    bits ^= bits >> np.uint64(27)
    bits *= _MIX_2
    bits ^= bits >> np.uint64(31)
    return bits


def order_in_windows(bits: npt.NDArray[np.uint64], window: int) -> npt.NDArray[np.int64]:
    """A random order inside each full window of `window` numbers, given one random number for each.

    (n * window,) -> (n * window,): place i of the result says which number comes i-th; it is in the window i is in.
    """
    # The number's own place replaces its lowest bits, so that sorting numbers (which is vectorised) sorts places.
    place_bits = np.uint64((1 << max(window - 1, 1).bit_length()) - 1)
    rows = bits.reshape(-1, window)
    tagged = (rows & ~place_bits) | np.arange(window, dtype=np.uint64)
    tagged.sort(axis=1)
    order = (tagged & place_bits).astype(np.int64)
    order += np.arange(0, len(bits), window, dtype=np.int64)[:, None]
    return order.reshape(-1)
