from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from slip.data.plan import Plan, default_lanes


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """One to three data sets, mixed by size or by weight."""
    counts = draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any), min_size=1, max_size=3))
    sizes = [sum(of_set) for of_set in counts]
    weights = (
        [Fraction(draw(st.integers(1, 5))) for _ in sizes] if draw(st.booleans()) else [Fraction(s) for s in sizes]
    )
    shares = [weight / sum(weights) for weight in weights]
    # So many samples that every data set gives at least one to a batch, and none gives one twice.
    least = max(-(-share.denominator // share.numerator) for share in shares)
    most = min(int(size / share) for size, share in zip(sizes, shares, strict=True))
    global_batch = draw(st.integers(least, most)) if least <= most else None
    if global_batch is None:
        counts, shares, global_batch = counts[:1], [Fraction(1)], draw(st.integers(1, sizes[0]))
    return Plan(
        counts=tuple(tuple(of_set) for of_set in counts),
        weights=tuple(shares),
        seed=draw(st.integers(0, 3)),
        global_batch=global_batch,
        lanes=draw(st.integers(0, 9)),
        shuffle_window=draw(st.integers(1, 40)),
    )


def stream_by_hand(plan: Plan, data_set: int, num: int) -> list[tuple[int, int]]:
    """The first `num` (sample, epoch) of a data set, epoch after epoch."""
    order = plan.orders[data_set]
    found: list[tuple[int, int]] = []
    epoch = 0
    while len(found) < num:
        found += [(int(sample), epoch) for sample in plan.epoch_order(data_set, epoch)]
        epoch += 1
    assert order.num_samples * epoch == len(found)
    return found[:num]


@given(plan=plans(), steps=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_batches_take_the_next_samples_of_every_data_set(plan: Plan, steps: int) -> None:
    taken = [0] * len(plan.counts)
    streams = [stream_by_hand(plan, i, steps * plan.global_batch + 1) for i in range(len(plan.counts))]
    for step in range(steps):
        samples = step * plan.global_batch
        ids, epochs = plan.batch(samples), plan.epochs(samples)
        assert len(ids) == len(epochs) == plan.global_batch
        found = Counter(zip(ids.tolist(), epochs.tolist(), strict=True))
        expected: Counter[tuple[int, int]] = Counter()
        for number, weight in enumerate(plan.weights):
            first = plan.set_starts[number]
            stop = first + plan.orders[number].num_samples
            count = int(((ids >= first) & (ids < stop)).sum())
            expected.update(streams[number][taken[number] : taken[number] + count])
            taken[number] += count
            assert abs(taken[number] - weight * (samples + plan.global_batch)) < 1
            assert plan.consumed(number, samples + plan.global_batch) == taken[number]
        assert found == expected


@given(plan=plans(), epoch=st.integers(0, 3))
@settings(deadline=None)
def test_an_epoch_has_every_sample_exactly_once(plan: Plan, epoch: int) -> None:
    for number, start in enumerate(plan.set_starts):
        order = plan.epoch_order(number, epoch)
        assert sorted(order.tolist()) == list(range(start, start + plan.orders[number].num_samples))


@given(plan=plans(), step=st.integers(0, 100))
@settings(deadline=None)
def test_ranks_share_the_same_global_batch(plan: Plan, step: int) -> None:
    samples = step * plan.global_batch
    whole = plan.batch(samples).tolist()
    for world_size in (n for n in range(1, plan.global_batch + 1) if plan.global_batch % n == 0):
        parts = [plan.batch(samples, rank, world_size).tolist() for rank in range(world_size)]
        assert {len(part) for part in parts} == {plan.global_batch // world_size}
        assert [sample for part in parts for sample in part] == whole


@given(plan=plans(), step=st.integers(0, 60))
@settings(deadline=None)
def test_a_window_is_finished_after_the_last_batch_that_uses_it(plan: Plan, step: int) -> None:
    samples = step * plan.global_batch
    keys = {run.key for run in plan.runs(samples)}
    uses: dict[object, int] = {}
    for later in range(step, step + 2 * plan.shuffle_window * plan.lanes // plan.global_batch + 60):
        for run in plan.runs(later * plan.global_batch):
            uses[run.key] = later
        if later > step + 60:
            break
    for key in keys:
        if uses[key] < step + 30:
            assert not plan.finished(key, uses[key] * plan.global_batch)
            assert plan.finished(key, (uses[key] + 1) * plan.global_batch)


@given(plan=plans(), data=st.data())
@settings(deadline=None)
def test_pieces_cover_the_samples(plan: Plan, data: st.DataObject) -> None:
    runs = plan.runs(data.draw(st.integers(0, 50)) * plan.global_batch)
    ids = plan.window(data.draw(st.sampled_from(runs)).key)
    counts = [count for of_set in plan.counts for count in of_set]
    pieces = plan.pieces(ids)
    found = [sum(counts[:shard]) + row for shard, first, stop in pieces for row in range(first, stop)]
    assert sorted(found) == sorted(ids.tolist())
    assert all(0 <= first < stop <= counts[shard] for shard, first, stop in pieces)
    # At most one piece per shard, and one more where the ring closes inside a shard.
    assert len(pieces) <= len({shard for shard, _, _ in pieces}) + 1


@given(plan=plans(), num_workers=st.integers(1, 5))
@settings(deadline=None)
def test_workers_share_what_a_rank_reads(plan: Plan, num_workers: int) -> None:
    counts = [count for of_set in plan.counts for count in of_set]
    slices = [s for w in range(num_workers) for s in plan.slices(0, worker=w, num_workers=num_workers)]
    ids = [sum(counts[:shard]) + row for shard, first, stop in slices for row in range(first, stop)]
    assert sorted(ids) == sorted(plan.batch(0).tolist())


def test_the_order_is_the_definitions() -> None:
    """Two shards, two lanes, windows of three: by hand from the ring."""
    plan = Plan(counts=((4, 7),), seed=1, global_batch=2, lanes=2, shuffle_window=3)
    order = plan.orders[0]
    ring = order._ring(5)
    ids = [i for start, first in zip(ring.ids.tolist(), ring.starts.tolist(), strict=True)
           for i in range(start, start + ({0: 4, 4: 7}[start]))]  # fmt: skip
    ids = ids[ring.first :] + ids[: ring.first]
    lanes = [ids[:6], ids[6:]]  # eleven samples: the first lane has one more
    assert order.phase(1) == 1  # so its first window has two samples
    windows = [[lanes[0][0:3], lanes[0][3:6]], [lanes[1][0:2], lanes[1][2:5]]]
    found = plan.epoch_order(0, 5).tolist()
    used = [found[0::2], found[1::2]]
    for lane in range(2):
        for part in windows[lane]:
            assert sorted(used[lane][: len(part)]) == sorted(part)
            used[lane] = used[lane][len(part) :]
        assert used[lane] == []


def test_epochs_differ_also_with_one_shard() -> None:
    plan = Plan(counts=((50,),), seed=0, global_batch=8, lanes=0, shuffle_window=4)
    assert len({tuple(plan.epoch_order(0, epoch).tolist()) for epoch in range(20)}) == 20


def test_shuffling_mixes_windows_evenly() -> None:
    """Every sample of a window is equally likely at every place: chi-square over many windows."""
    size = 8
    plan = Plan(counts=((size * 4000,),), seed=3, global_batch=size, lanes=1, shuffle_window=size)
    order = plan.epoch_order(0, 0).reshape(-1, size)
    table = np.zeros((size, size))
    for place in range(size):
        np.add.at(table[place], (order[:, place] - order.min(axis=1)) % size, 1)
    # The two windows around the place where the ring closes do not have consecutive ids.
    expected = table.sum() / size**2
    chi_square = ((table - expected) ** 2 / expected).sum()
    assert chi_square < 49 + 6 * (2 * 49) ** 0.5  # mean and deviation for (size - 1)^2 degrees of freedom


@pytest.mark.parametrize(("global_batch", "lanes"), [(4096, 256), (96, 24), (1000, 250), (257, 1), (64, 16), (1, 1)])
def test_default_lanes(global_batch: int, lanes: int) -> None:
    assert default_lanes(global_batch) == lanes


@pytest.mark.parametrize(("batch", "world_size", "advice"), [(64, 3, "63 or 66"), (2, 3, "a batch of 3")])
def test_world_size_must_divide_the_batch(batch: int, world_size: int, advice: str) -> None:
    plan = Plan(counts=((5000,),), seed=0, global_batch=batch, shuffle_window=16)
    with pytest.raises(ConfigError, match=f"world size is {world_size}.*{advice}"):
        plan.runs(0, 0, world_size)


def test_more_ranks_than_lanes_and_shards() -> None:
    plan = Plan(counts=((100,),), seed=0, global_batch=24, lanes=2, shuffle_window=7)
    parts = [plan.batch(48, rank, 24).tolist() for rank in range(24)]
    assert sorted(sample for part in parts for sample in part) == sorted(plan.batch(48).tolist())


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        (((60, 3),), (), "would take 64 samples of the data set, which has 63"),
        (((600,), (10,)), (Fraction(1, 2), Fraction(1, 2)), "would take 32 samples of data set 1, which has 10"),
        (
            ((600,), (10,)),
            (Fraction(999, 1000), Fraction(1, 1000)),
            r"gives data set 1 0\.064 samples of a batch of 64",
        ),
    ],
)
def test_impossible_settings(counts: tuple[tuple[int, ...], ...], weights: tuple[Fraction, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(counts=counts, weights=weights, seed=0, global_batch=64, lanes=0, shuffle_window=16)
