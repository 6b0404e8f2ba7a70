from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.fetch.fetched import (
    Job,
    again_path,
    again_tar,
    fetched_tar,
    is_done,
    job_rows,
    outcomes_path,
    read_again,
    read_outcomes,
    sweep,
    temp_prefix,
    write_outcomes,
)
from pipeline.records import OUTCOME_SCHEMA, SELECTION_SCHEMA
from pipeline.selection.selection import part_path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """One unit of ten rows, nothing fetched."""
    rows = [
        dict.fromkeys(SELECTION_SCHEMA.names, "")
        | {"key": f"k{i}", "row": i, "photo_id": -1, "line": -1, "title_usable": True, "description_usable": True}
        for i in range(10)
    ]
    part_path(tmp_path, 3).parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(tmp_path, 3))
    (tmp_path / "fetched").mkdir()
    return tmp_path


def outcomes(keys: list[str]) -> pa.Table:
    row = dict.fromkeys(OUTCOME_SCHEMA.names, "") | {"row": 0, "attempts": [], "offset": -1}
    row |= {"width": 0, "height": 0, "num_bytes": 0, "reason": "dead_link"}
    return pa.Table.from_pylist([row | {"key": key} for key in keys], schema=OUTCOME_SCHEMA)


def test_a_job_is_about_all_rows_or_some(work: Path) -> None:
    assert job_rows(work, Job(unit=3))["key"].to_pylist() == [f"k{i}" for i in range(10)]
    some = job_rows(work, Job(unit=3, positions=(2, 7)))
    assert some.select(["key", "position"]).to_pylist() == [{"key": "k2", "position": 2}, {"key": "k7", "position": 7}]
    assert job_rows(work, Job(unit=3, positions=())).num_rows == 0


def test_outcomes_are_replaced_whole_and_deterministically(work: Path) -> None:
    keys = [f"k{i}" for i in range(10)]
    write_outcomes(work, 3, outcomes(keys[::-1]))
    write_outcomes(work, 3, outcomes(keys))
    first = outcomes_path(work, 3).read_bytes()
    assert read_outcomes(work, 3)["key"].to_pylist() == keys
    # Columns in another order and notes in the schema, as a reader may have them, do not get into the file.
    shuffled = outcomes(keys).select(OUTCOME_SCHEMA.names[::-1]).replace_schema_metadata({"a": "b"})
    write_outcomes(work, 3, shuffled)
    assert outcomes_path(work, 3).read_bytes() == first
    assert [path.name for path in (work / "fetched").iterdir()] == ["00003.parquet"]


def test_a_unit_is_done_with_tar_and_table(work: Path) -> None:
    job = Job(unit=3)
    assert not is_done(work, job)
    write_outcomes(work, 3, outcomes([f"k{i}" for i in range(10)]))
    assert not is_done(work, job)
    fetched_tar(work, 3).touch()
    assert is_done(work, job)


def test_rows_asked_for_again_are_done_when_they_are_the_same_rows(work: Path) -> None:
    again_tar(work, 3).touch()
    pq.write_table(outcomes(["k2", "k7"]), again_path(work, 3))
    assert is_done(work, Job(unit=3, positions=(2, 7)))
    assert not is_done(work, Job(unit=3, positions=(2,)))
    assert not is_done(work, Job(unit=3))
    assert read_again(work, 3).num_rows == 2


@pytest.mark.parametrize(
    ("content", "match"), [(None, "not been fetched"), (b"rubbish", "delete it"), (b"", "delete it")]
)
def test_tables_that_cannot_be_read_are_named(content: bytes | None, match: str, work: Path) -> None:
    if content is not None:
        outcomes_path(work, 3).write_bytes(content)
    with pytest.raises(StoreError, match=match):
        read_outcomes(work, 3)


def test_other_columns_are_refused(work: Path) -> None:
    pq.write_table(outcomes(["k1"]).drop(["offset"]), outcomes_path(work, 3))
    with pytest.raises(StoreError, match="other columns"):
        read_outcomes(work, 3)


def test_only_the_dead_of_this_machine_are_swept(work: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        dead = temp_prefix().replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    folder = work / "fetched"
    for name in (f"{dead}folder", f"{temp_prefix()}folder", "tmp-some-other-host-1-abc"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    (folder / f"{dead}file").touch()
    (folder / "00003.tar").touch()
    sweep(work)
    left = {path.name for path in folder.iterdir()}
    assert left == {f"{temp_prefix()}folder", "tmp-some-other-host-1-abc", "00003.tar"}
