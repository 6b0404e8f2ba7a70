"""Faults of the ledger itself: each is named by its file, and nothing is proved."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from slip.data.sets import Mix, open_mix
from slip.ledger_verify import Verdict, verify
from tests.ledger_runs import Batch, batches, consume
from tests.tiny_data import write_shards

STEPS = 12


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Mix:
    return open_mix([write_shards(tmp_path_factory.mktemp("ledger") / "set", [20, 30])])


@pytest.fixture
def made(mix: Mix) -> list[Batch]:
    return batches(mix, global_batch=12, steps=STEPS)


@pytest.fixture
def run(tmp_path: Path, mix: Mix, made: list[Batch]) -> Path:
    """12 steps on 3 ranks in 3 segments, two epochs of 50 samples and most of a third."""
    consume(str(tmp_path), mix, made, stop=STEPS, world_size=3)
    assert verify(str(tmp_path), mix).proved
    return tmp_path


def refused(run: Path, mix: Mix) -> Verdict:
    verdict = verify(str(run), mix)
    assert not verdict.proved
    return verdict


def test_a_missing_rank_file_is_named(run: Path, mix: Mix) -> None:
    (run / "ledger/00000004-00000008/rank-00001-of-00003.ledger").unlink()
    verdict = refused(run, mix)
    assert len(verdict.problems) == 1
    assert "ledger/00000004-00000008: the files of 1 of 3 ranks are missing: rank 1;" in verdict.problems[0]
    # Its samples of the finished epochs, 0 and 1, are missed.
    assert verdict.total("missed") == 4 * 4


def test_many_missing_ranks_are_counted(run: Path, mix: Mix) -> None:
    folder = run / "ledger/00000004-00000008"
    for rank in range(3):
        (folder / f"rank-{rank:05d}-of-00003.ledger").rename(folder / f"rank-{rank:05d}-of-00099.ledger")
    problems = refused(run, mix).problems
    assert "the files of 96 of 99 ranks are missing: rank 3, 4, 5, 6, 7, 8, 9, 10, ...;" in problems[0]
    assert sum("it was copied or renamed" in problem for problem in problems) == 3


def test_a_gap_between_segments_is_named(run: Path, mix: Mix) -> None:
    shutil.rmtree(run / "ledger/00000004-00000008")
    verdict = refused(run, mix)
    assert len(verdict.problems) == 1
    assert "ledger/00000008-00000012: steps 4 to 7 before it are in no segment" in verdict.problems[0]
    assert verdict.steps == 8


def test_a_ledger_that_begins_late_is_named(run: Path, mix: Mix) -> None:
    shutil.rmtree(run / "ledger/00000000-00000004")
    assert "steps 0 to 3 before it are in no segment" in refused(run, mix).problems[0]


@pytest.mark.parametrize("place", [0, 20, 100, -1])
def test_a_flipped_byte_is_named(run: Path, mix: Mix, place: int) -> None:
    path = run / "ledger/00000000-00000004/rank-00002-of-00003.ledger"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    verdict = refused(run, mix)
    assert len(verdict.problems) == 1
    assert verdict.problems[0].startswith(f"{path}: ")
    assert ("damaged" if place else "not a ledger file") in verdict.problems[0]


def test_another_data_set_is_named(run: Path, mix: Mix, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = open_mix([write_shards(tmp_path_factory.mktemp("other") / "set", [30, 20])])
    verdict = refused(run, other)
    assert len(verdict.problems) == 9
    assert f"ids of data set {mix.digest[:16]}, the manifests given are {other.digest[:16]}" in verdict.problems[0]
    assert not verdict.epochs


def test_a_segment_of_another_data_set_is_named(tmp_path: Path, mix: Mix, made: list[Batch]) -> None:
    consume(str(tmp_path), mix, made, stop=4)
    consume(str(tmp_path), mix, made, start=4, stop=8, digest="f" * 64)
    [problem] = refused(tmp_path, mix).problems
    assert "00000004-00000008/rank-00000-of-00001.ledger: holds sample ids of data set ffffffffffffffff" in problem


def test_another_seed_is_named(tmp_path: Path, mix: Mix, made: list[Batch]) -> None:
    consume(str(tmp_path), mix, made, stop=4)
    consume(str(tmp_path), mix, made, start=4, stop=8, seed=9)
    [problem] = refused(tmp_path, mix).problems
    assert "00000004-00000008/rank-00000-of-00001.ledger: seed is 9, in " in problem
    assert "it is 3: two different runs" in problem


def test_another_global_batch_is_named(tmp_path: Path, mix: Mix, made: list[Batch]) -> None:
    consume(str(tmp_path), mix, made, stop=4)
    consume(str(tmp_path), mix, batches(mix, global_batch=6, steps=8), start=4, stop=8)
    [problem] = refused(tmp_path, mix).problems
    assert "global_batch is 6, in " in problem


def test_a_batch_of_the_wrong_size_is_named(tmp_path: Path, mix: Mix, made: list[Batch]) -> None:
    for step in (5, 6):
        made[step] = Batch(made[step].ids[1:], made[step].epochs[1:])
    consume(str(tmp_path), mix, made, stop=8, world_size=2)
    [problem] = refused(tmp_path, mix).problems
    assert "00000004-00000008: step 5 has 11 ids, expected the global batch of 12; so it is with 1 more" in problem


def test_two_runs_in_one_segment_are_named(run: Path, mix: Mix, made: list[Batch]) -> None:
    consume(str(run), mix, made, start=4, stop=8, world_size=2)
    verdict = refused(run, mix)
    assert "00000004-00000008: has files of runs on 2 and 3 ranks" in verdict.problems[0]
    assert verdict.total("doubled") == len(np.concatenate([batch.ids for batch in made[4:8]]))
