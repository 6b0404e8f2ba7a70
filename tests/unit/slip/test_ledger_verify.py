"""What a ledger proves: sound runs over kills and layouts are proved, and every kind of fault is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.data.sets import Mix, open_mix
from slip.ledger import Ledger, cut
from slip.ledger_counts import MOST_NAMED
from slip.ledger_verify import Verdict, verify
from tests.ledger_runs import Batch, batches, consume
from tests.tiny_data import write_shards

GLOBAL_BATCH = 12
STEPS = 20


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Mix:
    """One data set of 61 samples: 20 batches of 12 are not quite four epochs."""
    return open_mix([write_shards(tmp_path_factory.mktemp("ledger") / "set", [30, 1, 30])])


@pytest.fixture(scope="module")
def mix_of_two(tmp_path_factory: pytest.TempPathFactory) -> Mix:
    folder = tmp_path_factory.mktemp("ledger")
    return open_mix([write_shards(folder / "first", [7, 6]), write_shards(folder / "second", [40])])


def of_kind(verdict: Verdict, kind: str) -> list[tuple[int, int]]:
    return [(fault.epoch, fault.sample_id) for fault in verdict.faults if fault.kind == kind]


def changed(mix: Mix, change: Callable[[list[Batch]], None]) -> list[Batch]:
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    change(made)
    return made


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_an_undisturbed_run_is_proved(tmp_path: Path, mix: Mix, world_size: int) -> None:
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    consume(str(tmp_path), mix, made, stop=STEPS, world_size=world_size)
    verdict = verify(str(tmp_path), mix)
    assert verdict.proved
    assert (verdict.steps, verdict.global_batch, verdict.world_sizes) == (20, 12, (world_size,))
    assert [(e.epoch, e.finished, e.exactly_once) for e in verdict.epochs] == [
        *((0, True, 61), (1, True, 61), (2, True, 61)),
        (3, False, 240 - 183),
    ]
    assert [(e.first_step, e.last_step) for e in verdict.epochs] == [(0, 5), (5, 10), (10, 15), (15, 19)]
    assert not verdict.faults


def test_an_epoch_is_finished_with_its_last_sample(tmp_path: Path, mix: Mix) -> None:
    made = batches(mix, global_batch=61, steps=1)
    consume(str(tmp_path), mix, made, stop=1)
    assert [(e.finished, e.exactly_once) for e in verify(str(tmp_path), mix).epochs] == [(True, 61)]


def test_data_sets_have_epochs_of_their_own(tmp_path: Path, mix_of_two: Mix) -> None:
    made = batches(mix_of_two, global_batch=GLOBAL_BATCH, steps=STEPS)
    consume(str(tmp_path), mix_of_two, made, stop=STEPS, world_size=2)
    verdict = verify(str(tmp_path), mix_of_two)
    assert verdict.proved
    found = [(e.data_set, e.epoch, e.finished, e.exactly_once) for e in verdict.epochs]
    first = [(0, epoch, True, 13) for epoch in range(9)] + [(0, 9, False, 120 - 9 * 13)]
    assert found == first + [(1, epoch, True, 40) for epoch in range(3)]


@settings(deadline=None, max_examples=20)
@given(
    lives=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 4)), max_size=6),
    last_world_size=st.integers(1, 4),
)
def test_kills_and_other_world_sizes_leave_the_proof_whole(
    mix: Mix, tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, int, int]], last_world_size: int
) -> None:
    """A life: ranks, checkpoints, and how many ranks had written the next segment when all were killed."""
    output = str(tmp_path_factory.mktemp("run"))
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=60)
    step = 0
    for world_size, checkpoints, writers in lives:
        cut(output, step)
        reached = step + 4 * checkpoints
        consume(output, mix, made, start=step, stop=reached, world_size=world_size)
        consume(output, mix, made, start=reached, stop=reached + 4, world_size=world_size, writers=writers)
        step = reached
    cut(output, step)
    consume(output, mix, made, start=step, stop=60, world_size=last_world_size, every=7)
    verdict = verify(output, mix)
    assert verdict.proved
    assert verdict.steps == 60
    assert [e.exactly_once for e in verdict.epochs] == [61] * 11 + [60 * GLOBAL_BATCH - 11 * 61]


def test_a_killed_run_that_was_not_resumed_is_told_to(tmp_path: Path, mix: Mix) -> None:
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    consume(str(tmp_path), mix, made, stop=8, world_size=3)
    consume(str(tmp_path), mix, made, start=8, stop=12, world_size=3, writers=2)
    verdict = verify(str(tmp_path), mix)
    assert not verdict.proved
    [problem] = verdict.problems
    assert "00000008-00000012: the files of 1 of 3 ranks are missing: rank 2; " in problem
    assert "resume it" in problem


def test_a_missed_sample_is_named(tmp_path: Path, mix: Mix) -> None:
    def change(made: list[Batch]) -> None:
        at = np.flatnonzero(made[2].ids == made[2].ids[3])
        made[2].ids[at] = made[0].ids[5]

    expected = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    consume(str(tmp_path), mix, changed(mix, change), stop=STEPS, world_size=2)
    verdict = verify(str(tmp_path), mix)
    assert not verdict.proved
    assert not verdict.problems
    missed, doubled = int(expected[2].ids[3]), int(expected[0].ids[5])
    assert of_kind(verdict, "missed") == [(0, missed)]
    assert of_kind(verdict, "doubled") == [(0, doubled)]
    assert (verdict.epochs[0].exactly_once, verdict.epochs[0].noted) == (59, 61)
    [fault] = [fault for fault in verdict.faults if fault.kind == "missed"]
    # The tiny data set numbers its samples through.
    assert (fault.key, fault.shard, fault.row) == (
        f"{missed:06d}",
        *(("00000.tar", missed) if missed < 30 else ("00001.tar", 0) if missed == 30 else ("00002.tar", missed - 31)),
    )


def test_a_doubled_sample_in_the_epoch_under_way_is_named(tmp_path: Path, mix: Mix) -> None:
    def change(made: list[Batch]) -> None:
        made[19].ids[[1, 2, 3]] = made[19].ids[0]

    made = changed(mix, change)
    consume(str(tmp_path), mix, made, stop=STEPS)
    verdict = verify(str(tmp_path), mix)
    assert not verdict.proved
    [fault] = verdict.faults
    assert (fault.kind, fault.epoch, fault.sample_id) == ("doubled", 3, int(made[19].ids[0]))
    assert fault.detail == "noted 4 times"
    assert verdict.epochs[3].missed == 0


@pytest.mark.parametrize("far", [7, 19])
def test_samples_swapped_between_epochs_are_named_in_both(tmp_path: Path, mix: Mix, far: int) -> None:
    def change(made: list[Batch]) -> None:
        one, other = made[1].ids[0], made[far].ids[0]
        assert one != other
        made[1].ids[0], made[far].ids[0] = other, one

    expected = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    epoch = int(expected[far].epochs[0])
    one, other = int(expected[1].ids[0]), int(expected[far].ids[0])
    consume(str(tmp_path), mix, changed(mix, change), stop=STEPS)
    verdict = verify(str(tmp_path), mix)
    assert not verdict.proved
    finished = verdict.epochs[epoch].finished
    assert of_kind(verdict, "missed") == [(0, one), *([(epoch, other)] if finished else [])]
    assert (0, other) in of_kind(verdict, "doubled")
    assert ((epoch, one) in of_kind(verdict, "doubled")) == (one in made_ids(expected, epoch))


def made_ids(made: list[Batch], epoch: int) -> set[int]:
    return {int(i) for batch in made for i in batch.ids[batch.epochs == epoch]}


def test_a_sample_noted_in_an_epoch_long_finished_is_counted_there(tmp_path: Path, mix: Mix) -> None:
    def change(made: list[Batch]) -> None:
        made[19].epochs[4] = 0

    made = changed(mix, change)
    consume(str(tmp_path), mix, made, stop=STEPS)
    verdict = verify(str(tmp_path), mix)
    assert of_kind(verdict, "doubled") == [(0, int(made[19].ids[4]))]
    assert [e.exactly_once for e in verdict.epochs] == [60, 61, 61, 56]
    assert verdict.epochs[0].last_step == 19


def test_an_epoch_passed_over_is_named(tmp_path: Path, mix: Mix) -> None:
    def change(made: list[Batch]) -> None:
        for batch in made:
            batch.epochs[batch.epochs > 1] += 2

    consume(str(tmp_path), mix, changed(mix, change), stop=STEPS)
    verdict = verify(str(tmp_path), mix)
    assert not verdict.proved
    assert verdict.problems == ("data set tiny: epoch 4 has begun, but nothing was noted of epoch 2 to 3",)


def test_the_first_faults_are_named_and_the_others_counted(tmp_path: Path, mix: Mix) -> None:
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    consume(str(tmp_path), mix, made, stop=8, every=8)
    consume(str(tmp_path), mix, made, start=4, stop=STEPS, every=16)
    verdict = verify(str(tmp_path), mix)
    assert len(of_kind(verdict, "doubled")) == MOST_NAMED
    assert verdict.total("doubled") == 4 * GLOBAL_BATCH
    assert len(verdict.problems) == 1
    assert "00000004-00000016: steps 4 to 7 are in the segment before it as well" in verdict.problems[0]


def test_replaced_samples_are_named_and_do_not_break_the_proof(tmp_path: Path, mix: Mix) -> None:
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    damaged, stand_in = int(made[6].ids[11]), int(made[6].ids[2])
    consume(str(tmp_path), mix, made, stop=STEPS, world_size=2, replaced={damaged: stand_in})
    verdict = verify(str(tmp_path), mix)
    assert verdict.proved
    assert verdict.epochs[1].replaced == 1
    assert verdict.epochs[1].exactly_once == 60
    [fault] = [fault for fault in verdict.faults if fault.epoch == 1]
    assert (fault.kind, fault.sample_id) == ("replaced", damaged)
    assert fault.detail == f"by sample {stand_in} in step 6"


def test_a_replaced_sample_that_was_doubled_is_doubled(tmp_path: Path, mix: Mix) -> None:
    def change(made: list[Batch]) -> None:
        made[1].ids[0] = made[0].ids[0]

    made = changed(mix, change)
    damaged = int(made[0].ids[0])
    consume(str(tmp_path), mix, made, stop=6, replaced={damaged: int(made[0].ids[1])})
    verdict = verify(str(tmp_path), mix)
    epoch = verdict.epochs[0]
    assert of_kind(verdict, "doubled") == [(0, damaged)]
    assert (epoch.exactly_once, epoch.missed, epoch.doubled, epoch.replaced) == (59, 1, 1, 0)


def test_an_unreadable_index_does_not_hide_the_fault(tmp_path: Path, mix: Mix) -> None:
    made = batches(mix, global_batch=GLOBAL_BATCH, steps=STEPS)
    consume(str(tmp_path), mix, made, stop=STEPS, replaced={30: 1})
    elsewhere = tuple(dataclasses.replace(placed, index_base=str(tmp_path / "gone")) for placed in mix.shards)
    blind = Mix(urls=mix.urls, manifests=mix.manifests, weights=mix.weights)
    blind.__dict__["shards"] = elsewhere
    fault = verify(str(tmp_path), blind).faults[0]
    assert (fault.kind, fault.shard, fault.row) == ("replaced", "00001.tar", 0)
    assert fault.key.startswith("(no key: ")


def test_ids_of_no_data_set_are_counted(tmp_path: Path, mix: Mix) -> None:
    def change(made: list[Batch]) -> None:
        made[19].ids[:2] = [61, 10**12]

    consume(str(tmp_path), mix, changed(mix, change), stop=STEPS)
    verdict = verify(str(tmp_path), mix)
    assert not verdict.proved
    assert "rank-00000-of-00001.ledger: 2 ids are not among the 61 of the manifests" in verdict.problems[0]


def test_a_count_above_what_a_byte_holds_is_doubled(tmp_path: Path, mix: Mix) -> None:
    ledger = Ledger(str(tmp_path), rank=0, world_size=1, digest=mix.digest, seed=0, global_batch=257)
    for step in range(2):
        ledger.add(step, np.full(257, 8), np.full(257, 8), np.zeros(257, dtype=np.int64))
    ledger.flush()
    [fault] = verify(str(tmp_path), mix).faults
    assert (fault.sample_id, fault.detail) == (8, "noted 255 times or more")
