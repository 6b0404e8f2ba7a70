"""Measures of mixing: against counting one by one, against every possible part, and on really random orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.data.plan import Plan
from slip.data.shuffle_quality import (
    Int64Array,
    Part,
    Shards,
    batch_parts,
    distinct_shards,
    epoch_steps,
    group_shards,
    measure,
    neighbours,
    overlap,
    places,
    random_neighbour_distance,
    random_places,
    rank_correlation,
    same_shard,
    set_measures,
    share_of_misses,
)

WINDOW = 2
COUNTS = (3, 1, 4, 0, 1)


@dataclass(frozen=True, kw_only=True)
class RandomOrder:
    """One data set whose epochs are numpy's permutations."""

    counts: tuple[tuple[int, ...], ...]
    global_batch: int
    shuffle_window: int
    seed: int
    weights: tuple[Fraction, ...] = (Fraction(1),)

    def epoch_order(self, data_set: int, epoch: int) -> Int64Array:
        assert data_set == 0
        return np.random.default_rng((self.seed, epoch)).permutation(sum(self.counts[0])).astype(np.int64)

    def _places(self, samples: int) -> list[tuple[int, int]]:
        return [divmod(place, sum(self.counts[0])) for place in range(samples, samples + self.global_batch)]

    def batch(self, samples: int) -> Int64Array:
        orders = {epoch: self.epoch_order(0, epoch) for epoch in {epoch for epoch, _ in self._places(samples)}}
        return np.array([orders[epoch][place] for epoch, place in self._places(samples)])

    def epochs(self, samples: int) -> Int64Array:
        return np.array([epoch for epoch, _ in self._places(samples)])


def shard_of(sample_id: int, counts: Sequence[int] = COUNTS) -> int:
    return next(i for i in range(len(counts)) if sample_id < sum(counts[: i + 1]))


def slow_places(ids: Sequence[int]) -> int:
    return sum(not any(other in ids for other in range(i + 1, i + WINDOW + 1)) for i in ids)


def slow_neighbours(ids: Sequence[int]) -> int:
    return sum(i + 1 in ids and shard_of(i) == shard_of(i + 1) for i in ids)


def slow_same_shard(ids: Sequence[int]) -> int:
    return sum(shard_of(a) == shard_of(b) for a, b in itertools.combinations(ids, 2))


def part(ids: Sequence[int], epoch: int = 0, data_set: int = 0) -> Part:
    return Part(data_set, epoch, np.array(sorted(ids), dtype=np.int64))


Counted = Callable[[list[Part], list[Shards]], tuple[float, float]]
MEASURES: dict[str, tuple[Counted, Callable[[Sequence[int]], int]]] = {
    "places": (lambda parts, sets: places(parts, sets, WINDOW), slow_places),
    "shards": (distinct_shards, lambda ids: len({shard_of(i) for i in ids})),
    "neighbours": (neighbours, slow_neighbours),
    "same_shard": (same_shard, slow_same_shard),
}


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("name", MEASURES)
def test_expectations_are_the_mean_over_every_possible_part(name: str, size: int) -> None:
    fast, slow = MEASURES[name]
    sets = [group_shards(COUNTS)]
    counted, expected = [], set()
    for ids in itertools.combinations(range(sum(COUNTS)), size):
        found, mean = fast([part(ids)], sets)
        assert found == slow(ids)
        counted.append(found)
        expected.add(mean)
    assert len(expected) == 1
    assert expected.pop() == pytest.approx(math.fsum(counted) / len(counted), abs=1e-12)


def test_expected_shards_of_a_batch_with_two_epochs() -> None:
    sets = [group_shards(COUNTS)]
    firsts, seconds = (list(itertools.combinations(range(9), size)) for size in (2, 3))
    counted = [distinct_shards([part(a), part(b, epoch=1)], sets) for a in firsts for b in seconds]
    assert counted[0][1] == pytest.approx(sum(found for found, _ in counted) / len(counted), abs=1e-12)


def test_expected_overlap_is_the_mean_over_every_pair_of_parts() -> None:
    sets = [group_shards((4, 3)), group_shards((5,))]
    own = [part((0, 3, 6)), part((1, 2), data_set=1)]
    counted = []
    for ids in itertools.combinations(range(7), 4):
        found, expected = overlap(own, [part(ids, epoch=1), part((2, 4), epoch=0, data_set=1)], sets)
        # The second data set is still in the same epoch, where chance can bring nothing together.
        assert found == len({0, 3, 6} & set(ids)) + 1
        assert expected == pytest.approx(3 * 4 / 7)
        counted.append(found - 1)
    assert np.mean(counted) == pytest.approx(3 * 4 / 7)


def test_large_data_sets_are_as_exact_as_small_ones() -> None:
    # (1 - n/N)^m, corrected for drawing without replacement: within a millionth at this size.
    assert share_of_misses(15_000_000, 4096, 10_000) == pytest.approx(
        math.exp(sum(math.log1p(-10_000 / (15_000_000 - i)) for i in range(4096))), rel=1e-6
    )
    assert random_places(15_000_000, 4096, 128) == pytest.approx(4096 * math.exp(-4095 * 128 / 15e6), rel=1e-3)


@pytest.mark.parametrize("num_samples", [*range(2, 40), 1000])
def test_median_distance_of_neighbours_in_a_random_order(num_samples: int) -> None:
    pairs = num_samples * (num_samples - 1) // 2
    within = np.cumsum([num_samples - d for d in range(1, num_samples)])
    assert random_neighbour_distance(num_samples) == 1 + int(np.argmax(2 * within >= pairs))


@given(st.permutations(range(12)))
def test_rank_correlation_is_the_correlation_of_ranks(order: list[int]) -> None:
    assert rank_correlation(np.array(order)) == pytest.approx(np.corrcoef(order, range(12))[0, 1], abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    per_batch=st.integers(1, 40),
    lanes=st.integers(0, 7),
    window=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_any_plan_is_measured_like_counting_by_hand(
    counts: list[int], per_batch: int, lanes: int, window: int, epoch: int
) -> None:
    total = sum(counts)
    size = min(per_batch, total)
    plan = Plan(counts=(tuple(counts),), seed=1, global_batch=size, lanes=lanes, shuffle_window=window)
    quality = measure(plan, epoch=epoch, steps=10_000)
    steps = epoch_steps(total, size, epoch)
    assert quality.steps == quality.steps_in_epoch == len(steps)
    shards, pairs = [], []
    for step in steps:
        drawn = list(zip(plan.batch(step * size).tolist(), plan.epochs(step * size).tolist(), strict=True))
        shards.append(len({shard_of(i, counts) for i, _ in drawn}))
        pairs.append(
            sum(
                (i + 1, e) in drawn and shard_of(i, counts) == shard_of(i + 1, counts)
                for i, e in drawn
                if i + 1 < total
            )
        )
    assert quality.shards.mean == pytest.approx(np.mean(shards))
    assert (quality.shards.lowest, quality.shards.highest) == (min(shards), max(shards))
    assert quality.neighbours.mean == pytest.approx(np.mean(pairs) / size)
    for each in (quality.places, quality.shards, quality.neighbours, quality.same_shard, quality.overlap):
        assert all(math.isfinite(v) and v >= 0 for v in (each.mean, each.random))
    place = {int(i): p for p, i in enumerate(plan.epoch_order(0, epoch))}
    apart = [abs(place[i] - place[i + 1]) for i in range(total - 1) if shard_of(i, counts) == shard_of(i + 1, counts)]
    found = quality.sets[0].neighbour_steps
    assert found == (pytest.approx(float(np.median(apart)) / size) if apart else None)


def test_a_random_order_measures_as_random() -> None:
    qualities = [
        measure(RandomOrder(counts=((50, 20, 80, 50) * 5,), global_batch=60, shuffle_window=7, seed=seed), steps=16)
        for seed in range(20)
    ]
    for name in ("places", "shards", "neighbours", "same_shard", "overlap"):
        means = [getattr(quality, name).mean for quality in qualities]
        error = np.std(means, ddof=1) / math.sqrt(len(means))
        assert abs(np.mean(means) - getattr(qualities[0], name).random) < 4.5 * error, name
    correlations = [quality.sets[0].rank_correlation / quality.sets[0].rank_correlation_sd for quality in qualities]
    assert abs(np.mean(correlations)) < 4.5 / math.sqrt(len(correlations))
    assert 0.5 < np.std(correlations) < 1.7
    apart = [quality.sets[0].neighbour_steps for quality in qualities]
    assert np.mean([a for a in apart if a is not None]) == pytest.approx(
        qualities[0].sets[0].neighbour_steps_random, rel=0.05
    )


def test_a_stored_order_measures_as_bad() -> None:
    class Stored(RandomOrder):
        def epoch_order(self, data_set: int, epoch: int) -> Int64Array:
            return np.arange(1000)

    quality = measure(Stored(counts=((100,) * 10,), global_batch=50, shuffle_window=7, seed=0))
    assert quality.sets[0].rank_correlation == 1.0
    assert quality.sets[0].neighbour_steps == 1 / 50
    assert (quality.places.mean, quality.shards.mean, quality.overlap.mean) == (1, 1, 50)
    assert quality.neighbours.mean == pytest.approx(49 / 50)


def test_a_mix_is_measured_set_by_set() -> None:
    plan = Plan(
        counts=((40, 40), (10, 10)), weights=(Fraction(1, 2), Fraction(1, 2)), seed=0, global_batch=20, shuffle_window=4
    )
    parts = batch_parts(plan, 20)
    assert sum(len(each.ids) for each in parts) == 20
    assert {(each.data_set, each.epoch) for each in parts} == {(0, 0), (1, 0)}
    assert all(each.ids.min() >= 0 and each.ids.max() < (80, 20)[each.data_set] for each in parts)
    assert set_measures(plan, 1, 0).neighbour_steps_random == random_neighbour_distance(20) / 10
    # Five steps later the small set is always in another epoch, the large one (8 steps long) in two of five cases.
    assert measure(plan).overlap.random == pytest.approx(10 * 10 / 20 + 2 / 5 * 10 * 10 / 80)


@pytest.mark.parametrize(
    ("num_samples", "global_batch", "epoch", "expected"),
    [
        (100, 10, 0, range(10)),
        (100, 10, 2, range(20, 30)),
        (105, 10, 0, range(10)),
        (105, 10, 1, range(11, 21)),
        (10, 9, 0, range(1)),
        (10, 9, 1, range(2, 3)),
        (10, 10, 3, range(3, 4)),
    ],
)
def test_steps_wholly_inside_an_epoch(num_samples: int, global_batch: int, epoch: int, expected: range) -> None:
    assert epoch_steps(num_samples, global_batch, epoch) == expected
