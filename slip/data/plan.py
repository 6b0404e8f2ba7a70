"""Who reads what, when: which samples make up each global batch, and which of them rank `r` of `W` prepares.

Pure arithmetic on the manifests' sample counts. Each data set of the run has an order for every epoch
(`slip.data.order`); epoch follows epoch without a gap, and nothing is ever dropped. The batch that begins after `p`
consumed samples takes, of every data set, the samples from where its share of `p` ends to where its share of
`p + global_batch` ends. Shares are rounded down cumulatively, so a data set's count never strays from weight x
samples by a whole sample, at any moment of the run. With one data set that is simply its next `global_batch` samples.
A batch may hold the end of one epoch and the beginning of the next.

A batch is ordered by how far along its data set's lanes a sample stands and cut into W equal parts: rank r keeps to
the same lanes from step to step. Hence

- every epoch has every sample exactly once, and all ranks have the same number of steps;
- a global batch is the same set of samples for every world size that divides it;
- any step can be computed without the ones before it: where a run stands is (seed, samples consumed).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from slip.data.order import Int64Array, SetOrder
from slip.data.sets import Mix

MAX_DEFAULT_LANES = 256
MIN_PER_LANE = 4


class WindowKey(NamedTuple):
    """One window: the smallest unit that is read and shuffled."""

    data_set: int
    epoch: int
    lane: int
    window: int


class Run(NamedTuple):
    """Places [start, stop) of a window, which stand next to each other in a batch."""

    key: WindowKey
    start: int
    stop: int


class _Stretch(NamedTuple):
    """Consecutive slots [start, stop) of a lane that a batch takes."""

    data_set: int
    epoch: int
    lane: int
    start: int
    stop: int


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch that gives each lane 4 samples, at most 256: 4096 -> 256, 64 -> 16.

    More lanes mix a batch from more places; each costs memory for the window in use and an index to start.
    """
    most = max(1, min(MAX_DEFAULT_LANES, global_batch // MIN_PER_LANE))
    return max(n for n in range(1, most + 1) if global_batch % n == 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of samples of a whole run. Sample ids count through all data sets."""

    counts: tuple[tuple[int, ...], ...]
    """Samples per shard, for each data set."""
    weights: tuple[Fraction, ...] = ()
    """Share of each data set, adding up to 1; () = by their sizes."""
    seed: int
    global_batch: int
    """Samples per step over all ranks."""
    lanes: int = 0
    """Ordered streams an epoch of a data set is cut into (fewer where it has fewer samples); 0 = `default_lanes`."""
    shuffle_window: int

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.lanes < 0 or self.shuffle_window < 1:
            raise ConfigError(
                f"--optim.global-batch is {self.global_batch} and --data.shuffle-window is {self.shuffle_window}, both "
                f"must be at least 1; --data.lanes is {self.lanes}, it must be at least 0"
            )
        if self.lanes == 0:
            object.__setattr__(self, "lanes", default_lanes(self.global_batch))
        if not self.weights:
            sizes = [Fraction(sum(of_set)) for of_set in self.counts]
            object.__setattr__(self, "weights", tuple(size / sum(sizes) for size in sizes))
        for number, (order, weight) in enumerate(zip(self.orders, self.weights, strict=True)):
            share, name = weight * self.global_batch, f"data set {number}" if len(self.orders) > 1 else "the data set"
            if share > order.num_samples:
                raise ConfigError(
                    f"--optim.global-batch is {self.global_batch}: a batch would take {float(share):g} samples of "
                    f"{name}, which has {order.num_samples}, and hold some twice; choose a smaller batch"
                    + (" or another weight" if len(self.orders) > 1 else "")
                )
            if share < 1:
                raise ConfigError(
                    f"--data.weights gives {name} {float(share):.3g} samples of a batch of {self.global_batch}; "
                    "every data set needs at least one: raise its weight or the batch"
                )

    @cached_property
    def orders(self) -> tuple[SetOrder, ...]:
        """The data sets' own orders."""
        return tuple(
            SetOrder(
                counts=counts,
                seed=self.seed,
                data_set=number,
                lanes=max(1, min(self.lanes, sum(counts))),
                shuffle_window=self.shuffle_window,
            )
            for number, counts in enumerate(self.counts)
        )

    @cached_property
    def num_samples(self) -> int:
        """Samples of all data sets, which is what an epoch of the run has (of a mix, by weight)."""
        return sum(order.num_samples for order in self.orders)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one epoch; a fraction where the batch does not divide it."""
        return self.num_samples / self.global_batch

    @cached_property
    def set_starts(self) -> tuple[int, ...]:
        """First sample id of every data set."""
        sizes = [order.num_samples for order in self.orders]
        return tuple(sum(sizes[:i]) for i in range(len(sizes)))

    @cached_property
    def _cumulative(self) -> list[Fraction]:
        return [sum(self.weights[:i], Fraction(0)) for i in range(len(self.weights) + 1)]

    def consumed(self, data_set: int, samples: int) -> int:
        """Samples of one data set among the first `samples` of the run."""
        before, after = self._cumulative[data_set], self._cumulative[data_set + 1]
        return after.numerator * samples // after.denominator - before.numerator * samples // before.denominator

    def finished(self, key: WindowKey, samples: int) -> bool:
        """Whether no batch that begins after `samples` consumed samples uses the window."""
        order = self.orders[key.data_set]
        last = key.epoch * order.num_samples + order.last_number(key.lane, key.window)
        return self.consumed(key.data_set, samples) > last

    def batch_per_rank(self, world_size: int) -> int:
        """Samples each rank prepares of a global batch."""
        if self.global_batch % world_size:
            below, above = (self.global_batch // world_size + up for up in (0, 1))
            batches = f"{below * world_size} or {above * world_size}" if below else f"{above * world_size}"
            raise ConfigError(
                f"the world size is {world_size}, which does not divide --optim.global-batch {self.global_batch}; use "
                f"another number of ranks, or a batch of {batches}"
            )
        return self.global_batch // world_size

    def _stretches(self, samples: int) -> tuple[list[tuple[int, int]], Int64Array]:
        """A global batch: its (data set, epoch) pairs, and rows of (pair, lane, first slot, slot after the last)."""
        pairs: list[tuple[int, int]] = []
        rows: list[Int64Array] = []
        ranks: list[npt.NDArray[np.float64]] = []
        for number, order in enumerate(self.orders):
            start, stop = self.consumed(number, samples), self.consumed(number, samples + self.global_batch)
            lanes = np.arange(order.lanes, dtype=np.int64)
            while start < stop:
                epoch, begin = divmod(start, order.num_samples)
                end = min(begin + stop - start, order.num_samples)
                # Number q of an epoch is slot q // lanes of lane q % lanes.
                first, last = (-((lanes - q) // order.lanes) for q in (begin, end))
                rows.append(np.stack([np.full_like(lanes, len(pairs)), lanes, first, last], axis=1)[last > first])
                ranks.append((lanes / order.lanes)[last > first])
                pairs.append((number, epoch))
                start += end - begin
        table = np.concatenate(rows)
        return pairs, table[np.lexsort((table[:, 0], np.concatenate(ranks)))]

    def _part(self, samples: int, rank: int, world_size: int) -> list[_Stretch]:
        """One rank's part of a global batch, as it is ordered."""
        size = self.batch_per_rank(world_size)
        pairs, table = self._stretches(samples)
        ends = np.cumsum(table[:, 3] - table[:, 2])
        begin, end = rank * size, (rank + 1) * size
        first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left")
        part: list[_Stretch] = []
        rows, places = table[first : last + 1].tolist(), ends[first : last + 1].tolist()
        for (pair, lane, start, stop), place in zip(rows, places, strict=True):
            data_set, epoch = pairs[pair]
            before = place - (stop - start)
            start, stop = start + max(begin - before, 0), stop - max(place - end, 0)
            part.append(_Stretch(data_set=data_set, epoch=epoch, lane=lane, start=start, stop=stop))
        return part

    def runs(self, samples: int, rank: int = 0, world_size: int = 1) -> list[Run]:
        """One rank's part of the global batch that begins after `samples` consumed samples, in order."""
        found: list[Run] = []
        for data_set, epoch, lane, start, stop in self._part(samples, rank, world_size):
            order, size = self.orders[data_set], self.shuffle_window
            phase = order.phase(lane)
            for window in range((start + phase) // size, (stop - 1 + phase) // size + 1):
                begin, end = order.window_slots(lane, window)
                key = WindowKey(data_set, epoch, lane, window)
                found.append(Run(key, max(start, begin) - begin, min(stop, end) - begin))
        return found

    def window(self, key: WindowKey) -> Int64Array:
        """Sample ids of a window in the order of use."""
        return self.orders[key.data_set].window(key.epoch, key.lane, key.window) + self.set_starts[key.data_set]

    def batch(self, samples: int, rank: int = 0, world_size: int = 1) -> Int64Array:
        """Sample ids of one rank's part of a global batch, in order."""
        return np.concatenate([self.window(key)[a:b] for key, a, b in self.runs(samples, rank, world_size)])

    def epochs(self, samples: int, rank: int = 0, world_size: int = 1) -> Int64Array:
        """The epoch of its data set that each sample of a rank's part of a global batch belongs to."""
        runs = self.runs(samples, rank, world_size)
        return np.repeat([run.key.epoch for run in runs], [run.stop - run.start for run in runs]).astype(np.int64)

    def epoch_order(self, data_set: int, epoch: int) -> Int64Array:
        """All sample ids of an epoch of one data set in the order of use."""
        return self.orders[data_set].epoch(epoch) + self.set_starts[data_set]

    @cached_property
    def _first_ids(self) -> Int64Array:
        sizes = np.concatenate([np.asarray(counts, dtype=np.int64) for counts in self.counts])
        first_ids: Int64Array = np.cumsum(sizes) - sizes
        return first_ids

    def pieces(self, sample_ids: Int64Array) -> list[tuple[int, int, int]]:
        """The samples as (shard, first row, last row + 1), each consecutive in its shard; shards count through."""
        ids = np.sort(sample_ids)
        shards = np.searchsorted(self._first_ids, ids, side="right") - 1
        cuts = np.flatnonzero((np.diff(ids) != 1) | (np.diff(shards) != 0)) + 1
        rows = ids - self._first_ids[shards]
        bounds = pairwise([0, *cuts.tolist(), len(ids)])
        return [(int(shards[a]), int(rows[a]), int(rows[b - 1]) + 1) for a, b in bounds]

    def slices(
        self, samples: int, rank: int = 0, world_size: int = 1, *, worker: int = 0, num_workers: int = 1
    ) -> list[tuple[int, int, int]]:
        """What worker `worker` of a rank prepares of a global batch, as `pieces`: its share of the rank's rows."""
        ids = self.batch(samples, rank, world_size)
        share = ids[len(ids) * worker // num_workers : len(ids) * (worker + 1) // num_workers]
        return self.pieces(share) if len(share) else []


def make_plan(mix: Mix, *, seed: int, global_batch: int, lanes: int = 0, shuffle_window: int = 128) -> Plan:
    """The plan of a run over the data sets of `mix`."""
    return Plan(
        counts=mix.counts,
        weights=mix.weights,
        seed=seed,
        global_batch=global_batch,
        lanes=lanes,
        shuffle_window=shuffle_window,
    )
