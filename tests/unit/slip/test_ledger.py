"""Where the ledger is written, and what a resume takes away from it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline import store
from pipeline.errors import CheckpointError, InputError
from slip.data.sets import Mix, open_mix
from slip.ledger import Ledger, cut, read_segment, segments, written_segments
from tests.ledger_runs import batches, consume
from tests.tiny_data import write_shards


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Mix:
    return open_mix([write_shards(tmp_path_factory.mktemp("ledger") / "set", [5, 1, 4])])


def names(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


def test_every_rank_writes_one_file_per_flush(tmp_path: Path, mix: Mix) -> None:
    consume(str(tmp_path), mix, batches(mix, global_batch=4, steps=6), stop=6, world_size=2)
    assert names(tmp_path) == [
        "ledger/00000000-00000004/rank-00000-of-00002.ledger",
        "ledger/00000000-00000004/rank-00001-of-00002.ledger",
        "ledger/00000004-00000006/rank-00000-of-00002.ledger",
        "ledger/00000004-00000006/rank-00001-of-00002.ledger",
    ]


def test_nothing_to_flush_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), rank=0, world_size=1, digest="a" * 64, seed=0, global_batch=1)
    ledger.flush()
    one = np.array([1])
    ledger.add(8, one, one, one)
    ledger.flush()
    ledger.flush()
    assert names(tmp_path) == ["ledger/00000008-00000009/rank-00000-of-00001.ledger"]


def test_steps_follow_each_other(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), rank=0, world_size=1, digest="a" * 64, seed=0, global_batch=1)
    one = np.array([1])
    ledger.add(8, one, one, one)
    with pytest.raises(ValueError, match="step 10 follows step 8"):
        ledger.add(10, one, one, one)


@pytest.mark.parametrize(("step", "left"), [(0, 0), (4, 1), (8, 2), (11, 3)])
def test_a_resume_cuts_what_its_checkpoint_does_not_know(tmp_path: Path, mix: Mix, step: int, left: int) -> None:
    consume(str(tmp_path), mix, batches(mix, global_batch=4, steps=11), stop=11, world_size=2)
    half = tmp_path / "ledger/00000008-00000011/rank-00000-of-00002.ledger.part-elsewhere-1-1"
    half.write_bytes(b"SLIP")
    cut(str(tmp_path), step)
    assert half.exists() == (step == 11)
    kept = [segment for segment in segments(str(tmp_path)) if segment.files()]
    assert [segment.first for segment in kept] == [0, 4, 8][:left]
    assert all(len(segment.files()) == 2 for segment in kept)


def test_a_cut_inside_a_segment_says_why_it_cannot_be(tmp_path: Path, mix: Mix) -> None:
    consume(str(tmp_path), mix, batches(mix, global_batch=4, steps=8), stop=8)
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds steps 4 to 7 .* from step 6 .* without --ledger.* step 4 or 8"):
        cut(str(tmp_path), 6)
    assert names(tmp_path) == before


def test_the_empty_folder_of_a_segment_that_was_cut_is_no_segment(tmp_path: Path, mix: Mix) -> None:
    made = batches(mix, global_batch=4, steps=8)
    consume(str(tmp_path), mix, made, stop=8, every=8)
    cut(str(tmp_path), 0)
    consume(str(tmp_path), mix, made, stop=8, every=2)
    assert (tmp_path / "ledger/00000000-00000008").is_dir()
    cut(str(tmp_path), 6)
    assert [segment.stop for segment, _ in written_segments(str(tmp_path))] == [2, 4, 6]


def test_steps_done_without_a_ledger_are_said(tmp_path: Path, mix: Mix, caplog: pytest.LogCaptureFixture) -> None:
    consume(str(tmp_path), mix, batches(mix, global_batch=4, steps=4), stop=4)
    with caplog.at_level(logging.WARNING):
        cut(str(tmp_path), 4)
        assert not caplog.records
        cut(str(tmp_path), 9)
    assert "no steps 4 to 8" in caplog.text


def test_a_ledger_lies_on_any_store(mix: Mix) -> None:
    output = "memory://ledger-on-any-store/run"
    consume(output, mix, batches(mix, global_batch=4, steps=8), stop=8, world_size=2)
    cut(output, 4)
    [(segment, files)] = written_segments(output)
    assert [not isinstance(file, InputError) and file.header.rank for file in read_segment(segment, files)] == [0, 1]
    assert store.list_names(segment.url) == ["rank-00000-of-00002.ledger", "rank-00001-of-00002.ledger"]


def test_a_renamed_file_is_named(tmp_path: Path, mix: Mix) -> None:
    consume(str(tmp_path), mix, batches(mix, global_batch=4, steps=4), stop=4, world_size=2)
    folder = tmp_path / "ledger/00000000-00000004"
    (folder / "rank-00001-of-00002.ledger").write_bytes((folder / "rank-00000-of-00002.ledger").read_bytes())
    [(segment, files)] = written_segments(str(tmp_path))
    good, bad = read_segment(segment, files)
    assert not isinstance(good, InputError)
    assert isinstance(bad, InputError)
    assert "rank-00001-of-00002.ledger: by its content it is 00000000-00000004/rank-00000-of-00002" in str(bad)


def test_a_run_without_a_ledger_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ledger .*--ledger"):
        written_segments(str(tmp_path))
