"""Counts how often each sample was noted in each epoch of its data set.

In: blocks of a ledger and the mix their sample ids belong to. Out: an `EpochCount` and the first `Suspect`s of every
epoch. A byte per sample and epoch holds the count. At most two epochs of a data set are held open at a time, the others
packed into a few kilobytes, so memory does not grow with the number of epochs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from slip.data.sets import Mix
from slip.ledger_format import Block, Int64Array

Kind = Literal["missed", "doubled", "replaced"]
MOST_NAMED = 20
"""Samples of each kind that are named; the others are counted."""
_MOST_OPEN = 2
_MOST_COUNTED = 255
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCount:
    """What was noted of one epoch of one data set."""

    data_set: int
    name: str
    """Of the data set."""
    epoch: int
    finished: bool
    """A later epoch has begun, or every sample was noted."""
    first_step: int
    last_step: int
    noted: int
    """Ids noted, doubled ones as often as they were."""
    exactly_once: int
    missed: int
    """Not noted; 0 in an epoch under way."""
    doubled: int
    """Noted more than once."""
    replaced: int
    """Noted once, damaged, another used in their place."""


class Suspect(NamedTuple):
    """A sample that was not simply used once."""

    kind: Kind
    sample_id: int
    detail: str
    """How often it was noted, or what was used instead and when."""


class _Tally:
    """How often each sample of a data set was noted in one epoch."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._packed: bytes | None = None
        self._counts: npt.NDArray[np.uint8] | None = None
        self.noted, self.first_step, self.last_step = 0, -1, -1
        self.replaced: dict[int, tuple[int, int]] = {}  # row in the data set -> (used id, step)

    def open(self) -> npt.NDArray[np.uint8]:
        """The counts; 255 stands for all above."""
        if self._counts is None:
            if self._packed is None:
                self._counts = np.zeros(self._num_samples, dtype=np.uint8)
            else:
                self._counts = np.frombuffer(bytearray(zlib.decompress(self._packed)), dtype=np.uint8)
        return self._counts

    def pack(self) -> None:
        """Keep the counts in a few kilobytes until they are asked for."""
        if self._counts is not None:
            self._packed, self._counts = zlib.compress(self._counts.tobytes(), 1), None

    def note(self, rows: Int64Array, first_step: int, last_step: int) -> None:
        """Count rows of the data set, noted in steps from `first_step` to `last_step`."""
        rows = np.sort(rows)
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        times = np.diff(begins, append=len(rows))
        counts, rows = self.open(), rows[begins]
        counts[rows] = np.minimum(counts[rows] + times, _MOST_COUNTED).astype(np.uint8)
        self.noted += int(times.sum())
        self.first_step = first_step if self.first_step < 0 else min(self.first_step, first_step)
        self.last_step = max(self.last_step, last_step)


def _first(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The first rows that are set, as many as are named; all of an epoch's would take eight times its counts."""
    rows: list[int] = []
    for start in range(0, len(mask), _CHUNK):
        rows += (start + np.flatnonzero(mask[start : start + _CHUNK])).tolist()
        if len(rows) >= MOST_NAMED:
            break
    return rows[:MOST_NAMED]


class Counter:
    """The tallies of all data sets and epochs."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._starts = np.asarray(mix.set_starts, dtype=np.int64)
        self._tallies: list[dict[int, _Tally]] = [{} for _ in mix.manifests]
        self._open: list[list[int]] = [[] for _ in mix.manifests]  # epochs, the one used last at the end

    def _tally(self, data_set: int, epoch: int) -> _Tally:
        held = self._open[data_set]
        if epoch in held:
            held.remove(epoch)
        held.append(epoch)
        if len(held) > _MOST_OPEN:
            self._tallies[data_set][held.pop(0)].pack()
        if epoch not in self._tallies[data_set]:
            self._tallies[data_set][epoch] = _Tally(self._mix.manifests[data_set].num_samples)
        return self._tallies[data_set][epoch]

    def count(self, block: Block) -> int:
        """Count the rows of a block; how many of its ids no data set has."""
        ids_N, group_N = block.ids, np.repeat(np.arange(len(block.counts)), block.counts)
        known = ids_N < self._mix.num_samples
        unknown = len(ids_N) - int(known.sum())
        if unknown:
            ids_N, group_N = ids_N[known], group_N[known]
        set_N = np.searchsorted(self._starts, ids_N, side="right") - 1
        tally_N = block.epochs[group_N] * len(self._starts) + set_N
        # Stable, so that the rows of a tally stay in the order of their steps.
        order = np.argsort(tally_N, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(tally_N[order])) + 1):
            if at.size:
                epoch, data_set = divmod(int(tally_N[at[0]]), len(self._starts))
                first, last = block.steps[group_N[at[[0, -1]]]].tolist()
                self._tally(data_set, epoch).note(ids_N[at] - self._starts[data_set], first, last)
        for step, epoch, planned, used in block.replaced.tolist():
            if max(planned, used) >= self._mix.num_samples:
                unknown += 1
                continue
            data_set = int(np.searchsorted(self._starts, planned, side="right")) - 1
            self._tally(data_set, epoch).replaced[planned - int(self._starts[data_set])] = (used, step)
        return unknown

    def passed_over(self) -> list[tuple[int, int, int]]:
        """(data set, first epoch, last epoch) of which nothing was noted though a later one has begun."""
        gaps = []
        for data_set, tallies in enumerate(self._tallies):
            noted = [-1, *sorted(tallies)]
            gaps += [(data_set, a + 1, b - 1) for a, b in pairwise(noted) if b > a + 1]
        return gaps

    def summaries(self) -> Iterator[tuple[EpochCount, list[Suspect]]]:
        """The counts of every epoch, and the first suspects of each kind in it."""
        for data_set, tallies in enumerate(self._tallies):
            for epoch in sorted(tallies):
                yield self._summary(tallies[epoch], data_set, epoch, finished=epoch < max(tallies))
                tallies[epoch].pack()

    def _summary(self, tally: _Tally, data_set: int, epoch: int, *, finished: bool) -> tuple[EpochCount, list[Suspect]]:
        counts = tally.open()
        once = counts == 1
        never, often = counts == 0, counts > 1
        replaced = sorted(row for row in tally.replaced if once[row])
        missed = int(never.sum())
        finished = finished or not missed
        count = EpochCount(
            data_set=data_set,
            name=self._mix.manifests[data_set].name,
            epoch=epoch,
            finished=finished,
            first_step=tally.first_step,
            last_step=tally.last_step,
            noted=tally.noted,
            exactly_once=int(once.sum()) - len(replaced),
            missed=missed if finished else 0,
            doubled=int(often.sum()),
            replaced=len(replaced),
        )
        start = self._mix.set_starts[data_set]
        suspects = [Suspect("missed", start + row, "") for row in _first(never) if finished]
        for row in _first(often):
            times = f"{counts[row]} times" + (" or more" if counts[row] == _MOST_COUNTED else "")
            suspects.append(Suspect("doubled", start + row, f"noted {times}"))
        for row in replaced[:MOST_NAMED]:
            used, step = tally.replaced[row]
            suspects.append(Suspect("replaced", start + row, f"by sample {used} in step {step}"))
        return count, suspects
