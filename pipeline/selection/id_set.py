"""A set of 64-bit numbers that is asked for whole arrays at once; for tens of millions of photo ids.

Open addressing in one numpy array: 16 to 32 bytes a number, where Python's set takes about 100.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_EMPTY = np.iinfo(np.int64).min
# 2^64 divided by the golden ratio: neighbouring numbers land far apart (Knuth, TAOCP 3, 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FIRST_BITS = 16


class IdSet:
    """Numbers seen so far; the least int64 is not allowed."""

    def __init__(self) -> None:
        self._bits = _FIRST_BITS
        self._slots = np.full(1 << self._bits, _EMPTY, np.int64)
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def add(self, ids: Ids) -> NDArray[np.bool_]:
        """Take the numbers in; which of them come for the first time ever: [5, 7, 5] -> [True, True, False]."""
        distinct, first = np.unique(ids, return_index=True)
        while 2 * (self._len + len(distinct)) > len(self._slots):
            self._grow()
        is_new = np.zeros(len(ids), np.bool_)
        is_new[first] = self._insert(distinct)
        self._len += int(is_new.sum())
        return is_new

    def _insert(self, distinct: Ids) -> NDArray[np.bool_]:
        """Find or make room for each number; which were not there."""
        is_new = np.zeros(len(distinct), np.bool_)
        at = ((distinct.view(np.uint64) * _SPREAD) >> np.uint64(64 - self._bits)).astype(np.int64)
        waiting = np.arange(len(distinct))
        while len(waiting):
            wanted, slots = distinct[waiting], at[waiting]
            is_free = self._slots[slots] == _EMPTY
            # Of several numbers that take the same free slot one stays; the others see that and go on.
            self._slots[slots[is_free]] = wanted[is_free]
            is_placed = self._slots[slots] == wanted
            is_new[waiting[is_free & is_placed]] = True
            waiting = waiting[~is_placed]
            at[waiting] = (at[waiting] + 1) & (len(self._slots) - 1)
        return is_new

    def _grow(self) -> None:
        held = self._slots[self._slots != _EMPTY]
        self._bits += 1
        self._slots = np.full(1 << self._bits, _EMPTY, np.int64)
        self._insert(held)
