"""The order of one data set's samples in one epoch: a ring of shards, cut into lanes, shuffled in windows.

Pure arithmetic on the number of samples in each shard. Per epoch:

1. shards are permuted and laid end to end as a ring, which is entered at a random sample (with few shards the
   order of shards alone would repeat the same neighbourhoods in every epoch);
2. the ring is cut into `lanes` runs whose lengths differ by at most one sample;
3. inside a lane, windows of `shuffle_window` consecutive samples are permuted. Lanes have their windows' borders at
   different places, evenly spread, so that reading goes on steadily instead of all lanes needing new windows at once;
4. sample number `q` of the epoch is slot `q // lanes` of lane `q % lanes`.

Every sample has exactly one place in the epoch, and what stands there is computed from the window around it alone:
memory does not grow with the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from slip.data.keyed import Purpose, order_in_windows, permutation, raw_bits, stream_bits, uniforms

Int64Array = npt.NDArray[np.int64]

# So many lanes fill a cache line of an epoch's order: one by one they take twice as long to write.
_LANES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Ring:
    """An epoch's order of shards: the i-th begins at place `starts[i]` of the ring with sample `ids[i]`."""

    starts: Int64Array
    ids: Int64Array
    first: int
    lane_seeds: tuple[int, ...]


@lru_cache(maxsize=32)
def _ring(counts: tuple[int, ...], seed: int, data_set: int, epoch: int, lanes: int) -> _Ring:
    sizes = np.asarray(counts, dtype=np.int64)
    where = (data_set, 0, epoch)
    order = permutation(len(counts), seed=seed, purpose=Purpose.SHARD_ORDER, where=where)
    order = order[sizes[order] > 0]
    first_ids = np.cumsum(sizes) - sizes
    on_ring = np.cumsum(sizes[order]) - sizes[order]
    first = uniforms(1, seed=seed, purpose=Purpose.FIRST_SAMPLE, where=where)[0]
    seeds = raw_bits(lanes, seed=seed, purpose=Purpose.WINDOW_ORDER, where=where)
    return _Ring(on_ring, first_ids[order], int(first * int(sizes.sum())), tuple(int(s) for s in seeds))


@dataclass(frozen=True, kw_only=True)
class SetOrder:
    """The orders of one data set, one for each epoch. Ids count from 0 in the data set."""

    counts: tuple[int, ...]
    """Samples per shard, in the manifest's order."""
    seed: int
    data_set: int
    """Number of the data set in the mix: equal data sets in one mix have different orders."""
    lanes: int
    """At most the number of samples."""
    shuffle_window: int

    @cached_property
    def num_samples(self) -> int:
        """Samples in the data set."""
        return sum(self.counts)

    def lane_length(self, lane: int) -> int:
        """Samples of a lane in an epoch."""
        return self.num_samples // self.lanes + (lane < self.num_samples % self.lanes)

    def _lane_start(self, lane: int) -> int:
        """Place of a lane's first sample, counted along the ring from where it is entered."""
        return lane * (self.num_samples // self.lanes) + min(lane, self.num_samples % self.lanes)

    def phase(self, lane: int) -> int:
        """Samples by which the lane's first window is shorter than the others."""
        return lane * self.shuffle_window // self.lanes

    def window_slots(self, lane: int, window: int) -> tuple[int, int]:
        """First slot of a lane's window, and the slot after its last."""
        start = window * self.shuffle_window - self.phase(lane)
        return max(start, 0), min(start + self.shuffle_window, self.lane_length(lane))

    def last_number(self, lane: int, window: int) -> int:
        """The number in the epoch of the window's sample that is used last."""
        return (self.window_slots(lane, window)[1] - 1) * self.lanes + lane

    def _ids(self, ring: _Ring, start: int, count: int) -> Int64Array:
        """Ids of `count` samples along the ring, from `start` samples after where it is entered."""
        parts: list[Int64Array] = []
        place = (ring.first + start) % self.num_samples
        shard = int(np.searchsorted(ring.starts, place, side="right")) - 1
        while count > 0:
            end = int(ring.starts[shard + 1]) if shard + 1 < len(ring.starts) else self.num_samples
            taken = min(count, end - place)
            first = int(ring.ids[shard]) + place - int(ring.starts[shard])
            parts.append(np.arange(first, first + taken, dtype=np.int64))
            count -= taken
            shard = (shard + 1) % len(ring.starts)
            place = int(ring.starts[shard])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _ring(self, epoch: int) -> _Ring:
        return _ring(self.counts, self.seed, self.data_set, epoch, self.lanes)

    def window(self, epoch: int, lane: int, window: int) -> Int64Array:
        """Sample ids of one window in the order of use; sorted, they are a few runs of consecutive ids."""
        ring = self._ring(epoch)
        start, stop = self.window_slots(lane, window)
        order = order_in_windows(stream_bits(ring.lane_seeds[lane], start, stop - start), stop - start)
        ids: Int64Array = self._ids(ring, self._lane_start(lane) + start, stop - start)[order]
        return ids

    def _lane(self, ring: _Ring, lane: int) -> Int64Array:
        """Sample ids of a whole lane in the order of use."""
        length, size = self.lane_length(lane), self.shuffle_window
        bits = stream_bits(ring.lane_seeds[lane], 0, length)
        head = min(size - self.phase(lane), length)
        body = (length - head) // size * size
        cuts = [(0, head, head), (head, head + body, size), (head + body, length, length - head - body)]
        order = np.concatenate([order_in_windows(bits[a:b], n) + a for a, b, n in cuts if b > a])
        ids: Int64Array = self._ids(ring, self._lane_start(lane), length)[order]
        return ids

    def epoch(self, epoch: int) -> Int64Array:
        """All ids of an epoch in the order of use."""
        ring = self._ring(epoch)
        order = np.empty(self.num_samples, dtype=np.int64)
        full = self.num_samples // self.lanes
        slots = order[: full * self.lanes].reshape(full, self.lanes)
        for first in range(0, self.lanes, _LANES_AT_ONCE):
            lanes = range(first, min(first + _LANES_AT_ONCE, self.lanes))
            ids = [self._lane(ring, lane) for lane in lanes]
            slots[:, first : lanes.stop] = np.stack([of_lane[:full] for of_lane in ids], axis=1)
            for lane, of_lane in zip(lanes, ids, strict=True):
                order[full * self.lanes + lane : full * self.lanes + lane + len(of_lane) - full] = of_lane[full:]
        return order
