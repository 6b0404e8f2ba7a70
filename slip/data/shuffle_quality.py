"""How well an order of samples is mixed, beside what a perfectly random order would show.

In: an order (`slip.data.plan.Plan`, or anything with the attributes of `Order`). Out: plain numbers. Nothing is read
and nothing simulated: expectations are formulas, which stand at the functions that compute them.

A batch is looked at in *parts*, the samples of one data set in one epoch. In a perfectly random order, where every
order of an epoch is equally likely, a part is m of the data set's N samples, every choice of m equally likely, and
parts of different epochs are independent. Pairs of samples are counted inside parts.

Letters: N samples of a data set, K shards of it, n samples of one shard, m samples of a part, G samples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

_CHUNK = 1 << 20


class Order(Protocol):
    """Batches of sample ids; ids count through all data sets. See `slip.data.plan.Plan`."""

    @property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """Samples per shard, for each data set."""

    @property
    def weights(self) -> tuple[Fraction, ...]:
        """Share of each data set in a batch."""

    @property
    def global_batch(self) -> int:
        """Samples of a batch."""

    @property
    def shuffle_window(self) -> int:
        """Ids that lie further apart than this are at different places."""

    def batch(self, samples: int) -> Int64Array:
        """Ids of the batch that begins after `samples` consumed samples."""

    def epochs(self, samples: int) -> Int64Array:
        """The epoch of its data set each of them belongs to."""

    def epoch_order(self, data_set: int, epoch: int) -> Int64Array:
        """All ids of one data set in one epoch, in the order of use."""


class Part(NamedTuple):
    """The samples of one data set and epoch in a batch: `ids` are sorted and count from 0 in the data set."""

    data_set: int
    epoch: int
    ids: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number per batch over the batches looked at, and its mean in a random order."""

    mean: float
    lowest: float
    highest: float
    random: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMeasures:
    """What can be said of one data set's epoch as a whole."""

    rank_correlation: float
    """Spearman's, of sample id and position in the epoch: 0 no trend, 1 the order of the shards."""
    rank_correlation_sd: float
    """Standard deviation in a random order, whose mean is 0."""
    neighbour_steps: float | None
    """Steps between the uses of two samples that lie side by side in a shard, median; None: no shard has two."""
    neighbour_steps_random: float | None
    """The same in a random order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """All measures of one epoch of a run."""

    epoch: int
    steps: int
    """Batches looked at."""
    steps_in_epoch: int
    """Batches wholly inside the epoch, or 1."""
    places: Measure
    """Groups of ids, more than `shuffle_window` apart, a batch draws from."""
    shards: Measure
    """Shards a batch draws from."""
    neighbours: Measure
    """Samples whose next one in the shard is in the same batch, as a share of the batch."""
    same_shard: Measure
    """Pairs of samples from one shard, as a share of the pairs of a batch."""
    overlap: Measure
    """Samples a batch shares with the batch at the same place of the next epoch."""
    sets: tuple[SetMeasures, ...]


@lru_cache(maxsize=1024)
def share_of_misses(num_samples: int, part: int, group: int) -> float:
    """Chance that a random part of `part` samples has none of a given group: C(N - group, m) / C(N, m)."""
    if part > num_samples - group:
        return 0.0 if group else 1.0
    n, m, rest = num_samples, part, num_samples - group
    return math.exp(math.lgamma(rest + 1) - math.lgamma(rest - m + 1) - math.lgamma(n + 1) + math.lgamma(n - m + 1))


def random_places(num_samples: int, part: int, window: int) -> float:
    """Expected number of groups of a random part when ids at most `window` apart are in one group.

    A group ends at a sample when none of the `window` ids after it is in the part. For the N - window ids that have so
    many after them the chance is m / N * C(N-1-window, m-1) / C(N-1, m-1); a further group ends among the last
    `window` ids if one of them is in the part, 1 - C(N-window, m) / C(N, m).
    """
    window = min(window, num_samples)
    last = 1 - share_of_misses(num_samples, part, window)
    if part == 0 or window == num_samples:
        return last
    return last + (num_samples - window) * part / num_samples * share_of_misses(num_samples - 1, part - 1, window)


def random_neighbour_distance(num_samples: int) -> int:
    """Median distance of two samples in a random order of N.

    Two positions are at most d apart with probability d (2 N - d - 1) / (N (N - 1)); this is the smallest d for which
    it reaches a half. For many samples that is (1 - sqrt(1/2)) N = 0.293 N.
    """
    b, total = 2 * num_samples - 1, num_samples * (num_samples - 1)
    d = max((b - math.isqrt(b * b - 2 * total)) // 2 - 1, 0)
    while 2 * d * (b - d) < total:
        d += 1
    return d


def batch_parts(order: Order, samples: int) -> list[Part]:
    """The parts of the batch that begins after `samples` consumed samples."""
    starts = np.cumsum([0, *(sum(of_set) for of_set in order.counts)])
    ids, epochs = order.batch(samples), order.epochs(samples)
    sets = np.searchsorted(starts, ids, side="right") - 1
    found = []
    for data_set, epoch in sorted(set(zip(sets.tolist(), epochs.tolist(), strict=True))):
        chosen = ids[(sets == data_set) & (epochs == epoch)]
        found.append(Part(data_set, epoch, np.sort(chosen) - starts[data_set]))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """The shards of one data set: `firsts` are their first ids, `sizes` occur `times` times."""

    num_samples: int
    num_shards: int
    firsts: Int64Array
    sizes: list[int]
    times: list[int]

    def of(self, ids: Int64Array) -> Int64Array:
        """The shard of each id."""
        return np.asarray(np.searchsorted(self.firsts, ids, side="right") - 1, dtype=np.int64)

    def pairs(self) -> float:
        """Chance that two random samples are from one shard."""
        n = self.num_samples
        same = sum(size * (size - 1) * times for size, times in zip(self.sizes, self.times, strict=True))
        return same / (n * (n - 1)) if n > 1 else 0.0


def group_shards(counts: Sequence[int]) -> Shards:
    """The shards of a data set with so many samples in each."""
    filled = np.asarray([count for count in counts if count], dtype=np.int64)
    sizes, times = np.unique(filled, return_counts=True)
    return Shards(int(filled.sum()), len(filled), np.cumsum(filled) - filled, sizes.tolist(), times.tolist())


def places(parts: Sequence[Part], sets: Sequence[Shards], window: int) -> tuple[float, float]:
    """Groups of ids in a batch; expected: `random_places` of every part."""
    found = sum(1 + int(np.count_nonzero(np.diff(part.ids) > window)) for part in parts)
    return found, sum(random_places(sets[part.data_set].num_samples, len(part.ids), window) for part in parts)


def distinct_shards(parts: Sequence[Part], sets: Sequence[Shards]) -> tuple[float, float]:
    """Distinct shards of a batch; expected: the sum over shards of 1 - the product over parts of `share_of_misses`."""
    found, expected = 0.0, 0.0
    for number in {part.data_set for part in parts}:
        shards, own = sets[number], [part.ids for part in parts if part.data_set == number]
        found += len(np.unique(np.concatenate([shards.of(ids) for ids in own])))
        for size, times in zip(shards.sizes, shards.times, strict=True):
            missed = math.prod(share_of_misses(shards.num_samples, len(ids), size) for ids in own)
            expected += times * (1 - missed)
    return found, expected


def neighbours(parts: Sequence[Part], sets: Sequence[Shards]) -> tuple[float, float]:
    """Pairs of neighbours in a batch; expected: (N - K) m (m - 1) / (N (N - 1)), as N - K samples have a next one."""
    found, expected = 0, 0.0
    for part in parts:
        shards, m = sets[part.data_set], len(part.ids)
        where = shards.of(part.ids)
        found += int(np.count_nonzero((np.diff(part.ids) == 1) & (np.diff(where) == 0)))
        n = shards.num_samples
        expected += (n - shards.num_shards) * m * (m - 1) / (n * (n - 1)) if n > 1 else 0.0
    return found, expected


def same_shard(parts: Sequence[Part], sets: Sequence[Shards]) -> tuple[float, float]:
    """Pairs from one shard; expected: m (m - 1) / 2 times the sum over shards of n (n - 1) / (N (N - 1))."""
    found, expected = 0, 0.0
    for part in parts:
        shards, m = sets[part.data_set], len(part.ids)
        _, times = np.unique(shards.of(part.ids), return_counts=True)
        found += int((times * (times - 1)).sum()) // 2
        expected += m * (m - 1) / 2 * shards.pairs()
    return found, expected


def overlap(parts: Sequence[Part], others: Sequence[Part], sets: Sequence[Shards]) -> tuple[float, float]:
    """Samples two batches share; expected: m m' / N for parts of one data set in different epochs."""
    found, expected = 0, 0.0
    for part in parts:
        for other in others:
            if part.data_set == other.data_set:
                found += len(np.intersect1d(part.ids, other.ids, assume_unique=True))
                apart = part.epoch != other.epoch
                expected += len(part.ids) * len(other.ids) / sets[part.data_set].num_samples * apart
    return found, expected


def rank_correlation(order: Int64Array) -> float:
    """Spearman's: 1 - 6 sum((id - position)^2) / (N (N^2 - 1)), for an order of range(N)."""
    n, squares = len(order), 0.0
    if n < 2:
        return 0.0
    for start in range(0, n, _CHUNK):
        piece = order[start : start + _CHUNK]
        off = (piece - np.arange(start, start + len(piece))).astype(np.float64)
        squares += float(np.dot(off, off))
    return 1 - 6 * squares / (float(n) * (float(n) ** 2 - 1))


def set_measures(order: Order, data_set: int, epoch: int) -> SetMeasures:
    """Rank correlation and distance of neighbours over one epoch of one data set."""
    counts, per_step = order.counts[data_set], float(order.weights[data_set] * order.global_batch)
    ids = order.epoch_order(data_set, epoch) - sum(sum(of_set) for of_set in order.counts[:data_set])
    n, shards = len(ids), group_shards(counts)
    positions = np.empty(n, dtype=np.int64 if n > np.iinfo(np.int32).max else np.int32)
    positions[ids] = np.arange(n, dtype=positions.dtype)
    apart = np.delete(np.abs(np.diff(positions)), shards.firsts[1:] - 1)
    return SetMeasures(
        rank_correlation=rank_correlation(ids),
        rank_correlation_sd=1 / math.sqrt(n - 1) if n > 1 else 0.0,
        neighbour_steps=float(np.median(apart)) / per_step if len(apart) else None,
        neighbour_steps_random=random_neighbour_distance(n) / per_step if len(apart) else None,
    )


def epoch_steps(num_samples: int, global_batch: int, epoch: int) -> range:
    """Steps of a run whose batches lie wholly inside an epoch of all samples; never none (one that juts out then)."""
    first, stop = -(-epoch * num_samples // global_batch), (epoch + 1) * num_samples // global_batch
    return range(first, max(stop, first + 1))


def _summary(values: Sequence[tuple[float, float]], scale: float = 1.0) -> Measure:
    found = [value * scale for value, _ in values]
    return Measure(
        mean=math.fsum(found) / len(found),
        lowest=min(found),
        highest=max(found),
        random=math.fsum(expected for _, expected in values) / len(values) * scale,
    )


def measure(order: Order, *, epoch: int = 0, steps: int = 64) -> ShuffleQuality:
    """Measure at most `steps` batches, evenly spread over an epoch; an epoch of a mix is so many samples as it has."""
    sets = [group_shards(counts) for counts in order.counts]
    total, size = sum(shards.num_samples for shards in sets), order.global_batch
    own, following = (epoch_steps(total, size, number) for number in (epoch, epoch + 1))
    count = min(steps, len(own))
    found: dict[str, list[tuple[float, float]]] = {}
    for i in range(count):
        place = i * len(own) // count
        parts = batch_parts(order, own[place] * size)
        later = batch_parts(order, max(following.start + place, own[place] + 1) * size)
        for name, value in (
            ("places", places(parts, sets, order.shuffle_window)),
            ("shards", distinct_shards(parts, sets)),
            ("neighbours", neighbours(parts, sets)),
            ("same_shard", same_shard(parts, sets)),
            ("overlap", overlap(parts, later, sets)),
        ):
            found.setdefault(name, []).append(value)
    return ShuffleQuality(
        epoch=epoch,
        steps=count,
        steps_in_epoch=len(own),
        places=_summary(found["places"]),
        shards=_summary(found["shards"]),
        neighbours=_summary(found["neighbours"], 1 / size),
        same_shard=_summary(found["same_shard"], 2 / (size * (size - 1)) if size > 1 else 0.0),
        overlap=_summary(found["overlap"]),
        sets=tuple(set_measures(order, number, epoch) for number in range(len(sets))),
    )
