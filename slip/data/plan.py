"""Who reads what, when: which samples make up global batch `t`, and which of them rank `r` of `W` prepares.

Pure arithmetic on the manifest's sample counts. A sample's id is its position in the manifest (shards in
order, samples in the order of the tar). Per epoch:

1. shards are permuted and laid end to end as a ring, which is entered at a random sample (with few shards the
   order of shards alone would repeat the same neighbourhoods, and drop the same samples, in every epoch);
2. the ring is cut into `lanes` runs of equal length; what is left, less than a global batch, is dropped this time;
3. inside a lane, every `shuffle_window` consecutive samples are permuted (the last window is shorter);
4. global batch `t` takes the next `global_batch / lanes` samples of every lane; rank `r` owns the lanes = r mod W.

So an epoch has every sample at most once, all ranks have the same number of steps, global batch `t` is the same set
for every world size, and any step can be computed without the ones before it. Only windows are ever
computed, never an epoch's order: memory does not grow with the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from slip.data.keyed import Purpose, permutation, uniforms

MAX_DEFAULT_LANES = 256

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Slots [start, stop) of window number `window`; the same in every lane."""

    window: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class _Ring:
    """An epoch's order of shards: the i-th begins at place `starts[i]` of the ring with sample `ids[i]`."""

    starts: Int64Array
    ids: Int64Array
    first: int


@lru_cache(maxsize=8)
def _ring(counts: tuple[int, ...], seed: int, epoch: int) -> _Ring:
    sizes = np.asarray(counts, dtype=np.int64)
    order = permutation(len(counts), seed=seed, purpose=Purpose.SHARD_ORDER, where=(0, 0, epoch))
    first_ids = np.cumsum(sizes) - sizes
    on_ring = np.cumsum(sizes[order]) - sizes[order]
    first = uniforms(1, seed=seed, purpose=Purpose.FIRST_SAMPLE, where=(0, 0, epoch))[0]
    return _Ring(on_ring, first_ids[order], int(first * int(sizes.sum())))


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch that is at most 256: 4096 -> 256, 96 -> 96, 1000 -> 250."""
    return max(n for n in range(1, min(global_batch, MAX_DEFAULT_LANES) + 1) if global_batch % n == 0)


def _world_size_advice(global_batch: int, world_size: int) -> str:
    """What to set so that `world_size` ranks can share the lanes of this batch."""
    if global_batch % world_size:
        below, above = global_batch // world_size * world_size, -(-global_batch // world_size) * world_size
        batches = f"{below} or {above}" if below else f"{above}"
        return f"set --optim.global-batch to a multiple of the world size ({batches})"
    fitting = [n for n in range(world_size, global_batch + 1, world_size) if global_batch % n == 0]
    best = max((n for n in fitting if n <= MAX_DEFAULT_LANES), default=fitting[0])
    return f"set --data.lanes {best} (from the first step on: another number of lanes is another order of samples)"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of samples of a whole run."""

    counts: tuple[int, ...]
    """Samples per shard, in the manifest's order."""
    seed: int
    global_batch: int
    lanes: int
    """0 = `default_lanes`; never depends on the world size."""
    shuffle_window: int

    def __post_init__(self) -> None:
        if self.lanes == 0:
            object.__setattr__(self, "lanes", default_lanes(self.global_batch))
        if self.lanes < 1 or self.global_batch % self.lanes:
            raise ConfigError(
                f"--data.lanes is {self.lanes}, which does not divide --optim.global-batch {self.global_batch}; "
                f"{default_lanes(self.global_batch)} does"
            )
        if self.global_batch > self.num_samples:
            raise ConfigError(
                f"--optim.global-batch is {self.global_batch}, more than the data set's {self.num_samples} samples; "
                "an epoch must have at least one step"
            )

    @cached_property
    def num_samples(self) -> int:
        """Samples in the data set."""
        return sum(self.counts)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return self.num_samples // self.global_batch

    @property
    def per_lane(self) -> int:
        """Samples one global batch takes from each lane."""
        return self.global_batch // self.lanes

    @property
    def lane_samples(self) -> int:
        """Samples in a lane per epoch."""
        return self.steps_per_epoch * self.per_lane

    @cached_property
    def _first_ids(self) -> Int64Array:
        return np.concatenate([[0], np.cumsum(np.asarray(self.counts, dtype=np.int64))[:-1]]).astype(np.int64)

    def epoch_of(self, step: int) -> int:
        """The epoch of a global step: steps are counted through all epochs."""
        return step // self.steps_per_epoch

    def own_lanes(self, rank: int, world_size: int) -> range:
        """The lanes of one rank, an equal number for each."""
        if self.lanes % world_size:
            raise ConfigError(
                f"the world size is {world_size}, which does not divide the {self.lanes} lanes of a global batch of "
                f"{self.global_batch}; {_world_size_advice(self.global_batch, world_size)}, "
                "or use another number of ranks"
            )
        return range(rank, self.lanes, world_size)

    def spans(self, step: int) -> list[Span]:
        """The slots of every lane that global batch `step` takes, in order."""
        begin = (step % self.steps_per_epoch) * self.per_lane
        end = begin + self.per_lane
        size = self.shuffle_window
        return [
            Span(window=w, start=max(begin - w * size, 0), stop=min(end - w * size, size))
            for w in range(begin // size, (end - 1) // size + 1)
        ]

    def next_window(self, epoch: int, window: int) -> tuple[int, int, int]:
        """(epoch, window) of a lane that follows the given one, and the first step that needs it."""
        begin = (window + 1) * self.shuffle_window
        if begin >= self.lane_samples:
            return epoch + 1, 0, (epoch + 1) * self.steps_per_epoch
        return epoch, window + 1, epoch * self.steps_per_epoch + begin // self.per_lane

    def window(self, epoch: int, lane: int, window: int) -> Int64Array:
        """Sample ids of one window in the order of use; sorted, they are a few runs of consecutive ids."""
        ring = _ring(self.counts, self.seed, epoch)
        begin = window * self.shuffle_window
        size = min(self.shuffle_window, self.lane_samples - begin)
        order = permutation(size, seed=self.seed, purpose=Purpose.WINDOW_ORDER, where=(window, lane, epoch))
        place = (ring.first + lane * self.lane_samples + begin + order) % self.num_samples
        # side="right" minus one skips shards without samples: they begin where the next one does.
        shard = np.searchsorted(ring.starts, place, side="right") - 1
        return np.asarray(ring.ids[shard] + place - ring.starts[shard], dtype=np.int64)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Int64Array:
        """Sample ids of one rank's part of global batch `step`, by lane, then by slot."""
        epoch, spans = self.epoch_of(step), self.spans(step)
        return np.concatenate(
            [
                self.window(epoch, lane, span.window)[span.start : span.stop]
                for lane in self.own_lanes(rank, world_size)
                for span in spans
            ]
        )

    def first_id(self, shard: int) -> int:
        """Id of a shard's first sample."""
        return int(self._first_ids[shard])

    def pieces(self, sample_ids: Int64Array) -> list[tuple[int, int, int]]:
        """The samples as (shard, first row, last row + 1), each piece consecutive in its shard."""
        ids = np.sort(sample_ids)
        shards = np.searchsorted(self._first_ids, ids, side="right") - 1
        cuts = np.flatnonzero((np.diff(ids) != 1) | (np.diff(shards) != 0)) + 1
        firsts, lasts = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(ids)]]) - 1
        rows = ids - self._first_ids[shards]
        return [(int(shards[a]), int(rows[a]), int(rows[b]) + 1) for a, b in zip(firsts, lasts, strict=True)]
