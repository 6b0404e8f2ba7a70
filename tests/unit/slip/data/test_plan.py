from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from slip.data.keyed import Purpose, permutation, uniforms
from slip.data.plan import Plan, default_lanes


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any))
    lanes = draw(st.integers(1, min(8, sum(counts))))
    per_lane = draw(st.integers(1, sum(counts) // lanes))
    return Plan(
        counts=tuple(counts),
        seed=draw(st.integers(0, 3)),
        global_batch=lanes * per_lane,
        lanes=lanes,
        shuffle_window=draw(st.integers(1, 50)),
    )


def epoch_by_hand(plan: Plan, epoch: int) -> list[list[int]]:
    """The global batches of an epoch, from lists of every sample."""
    shards, number = [], 0
    for count in plan.counts:
        shards.append(list(range(number, number + count)))
        number += count
    order = permutation(len(shards), seed=plan.seed, purpose=Purpose.SHARD_ORDER, where=(0, 0, epoch))
    ring = [sample for shard in order for sample in shards[shard]]
    first = int(uniforms(1, seed=plan.seed, purpose=Purpose.FIRST_SAMPLE, where=(0, 0, epoch))[0] * number)
    ring = ring[first:] + ring[:first]
    steps = number // plan.global_batch
    share = plan.global_batch // plan.lanes
    lanes = []
    for lane in range(plan.lanes):
        run = ring[lane * steps * share : (lane + 1) * steps * share]
        shuffled = []
        for window in range(0, len(run), plan.shuffle_window):
            part = run[window : window + plan.shuffle_window]
            where = (window // plan.shuffle_window, lane, epoch)
            inner = permutation(len(part), seed=plan.seed, purpose=Purpose.WINDOW_ORDER, where=where)
            shuffled += [part[i] for i in inner]
        lanes.append(shuffled)
    return [[s for lane in lanes for s in lane[t * share : (t + 1) * share]] for t in range(steps)]


@given(plan=plans(), epoch=st.integers(0, 3))
@settings(max_examples=150)
def test_batches_are_those_of_the_definition(plan: Plan, epoch: int) -> None:
    steps = plan.steps_per_epoch
    found = [plan.batch(epoch * steps + t).tolist() for t in range(steps)]
    assert found == epoch_by_hand(plan, epoch)


@given(plan=plans(), epoch=st.integers(0, 2))
def test_an_epoch_has_every_sample_at_most_once(plan: Plan, epoch: int) -> None:
    steps = plan.steps_per_epoch
    used = np.concatenate([plan.batch(epoch * steps + t) for t in range(steps)])
    assert len(used) == steps * plan.global_batch > plan.num_samples - plan.global_batch
    assert len(np.unique(used)) == len(used)
    assert used.min() >= 0
    assert used.max() < plan.num_samples


@given(plan=plans(), step=st.integers(0, 200))
def test_ranks_share_the_same_global_batch(plan: Plan, step: int) -> None:
    whole = sorted(plan.batch(step).tolist())
    for world_size in (n for n in range(1, plan.lanes + 1) if plan.lanes % n == 0):
        parts = [plan.batch(step, rank, world_size).tolist() for rank in range(world_size)]
        assert {len(part) for part in parts} == {plan.global_batch // world_size}
        assert sorted(sample for part in parts for sample in part) == whole


@given(plan=plans(), step=st.integers(0, 200))
def test_next_window_is_where_the_lane_goes_on(plan: Plan, step: int) -> None:
    epoch, last = plan.epoch_of(step), plan.spans(step)[-1].window
    next_epoch, next_window, first_step = plan.next_window(epoch, last)
    assert first_step >= step + (next_epoch > epoch)
    spans = plan.spans(first_step)
    assert (plan.epoch_of(first_step), next_window) in {(next_epoch, span.window) for span in spans}
    before = {(plan.epoch_of(s), span.window) for s in range(step, first_step) for span in plan.spans(s)}
    assert (next_epoch, next_window) not in before


@given(plan=plans(), data=st.data())
def test_pieces_cover_the_samples(plan: Plan, data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, plan.lanes - 1))
    window = data.draw(st.integers(0, (plan.lane_samples - 1) // plan.shuffle_window))
    ids = plan.window(0, lane, window)
    pieces = plan.pieces(ids)
    found = [plan.first_id(shard) + row for shard, first, stop in pieces for row in range(first, stop)]
    assert sorted(found) == sorted(ids.tolist())
    assert all(0 <= first < stop <= plan.counts[shard] for shard, first, stop in pieces)
    # At most one piece per shard, and one more where the ring closes inside a shard.
    assert len(pieces) <= len({shard for shard, _, _ in pieces}) + 1


def test_epochs_differ_also_with_one_shard() -> None:
    plan = Plan(counts=(50,), seed=0, global_batch=8, lanes=0, shuffle_window=4)
    epochs = [np.concatenate([plan.batch(e * 6 + t) for t in range(6)]) for e in range(20)]
    assert len({tuple(e) for e in epochs}) == 20
    # Two samples are dropped each time, not always the same ones.
    assert len(set(np.concatenate(epochs).tolist())) == 50


@pytest.mark.parametrize(("global_batch", "lanes"), [(4096, 256), (96, 96), (1000, 250), (257, 1), (512, 256), (1, 1)])
def test_default_lanes(global_batch: int, lanes: int) -> None:
    assert default_lanes(global_batch) == lanes


@pytest.mark.parametrize(
    ("batch", "lanes", "world_size", "advice"),
    [
        (96, 32, 3, "--data.lanes 96"),
        (4096, 0, 512, "--data.lanes 512"),
        (64, 0, 3, "--optim.global-batch to a multiple of the world size (63 or 66)"),
        (2, 0, 3, "(3)"),
    ],
)
def test_world_size_must_divide_the_lanes(batch: int, lanes: int, world_size: int, advice: str) -> None:
    plan = Plan(counts=(5000,), seed=0, global_batch=batch, lanes=lanes, shuffle_window=16)
    with pytest.raises(ConfigError) as caught:
        plan.own_lanes(0, world_size)
    assert advice in str(caught.value)


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match=r"does not divide --optim\.global-batch 64"):
        Plan(counts=(500,), seed=0, global_batch=64, lanes=3, shuffle_window=16)
    with pytest.raises(ConfigError, match="more than the data set's 63 samples"):
        Plan(counts=(60, 3), seed=0, global_batch=64, lanes=0, shuffle_window=16)
