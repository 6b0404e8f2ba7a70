"""A launch is read back as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slip.launch.record import FILE, Launch, RunRecord, Submission, launches, read_launch, write_launch

LAUNCH = Launch(
    name="x",
    executor="slurm",
    working_folder="/w/ö",
    python="python",
    version="1",
    commit=None,
    dirty=None,
    runs=(RunRecord(recipe="demo", seed=1, output="o", arguments=("demo", "--seed", "1")),),
)
SUBMISSION = Submission(at="2026-01-01", host="h", jobs=("7",), words=("demo",), settings={"nodes": 2})


@pytest.mark.parametrize("submissions", [(), (SUBMISSION,), (SUBMISSION, SUBMISSION)])
def test_it_is_read_back(tmp_path: Path, submissions: tuple[Submission, ...]) -> None:
    launch = Launch(**{name: getattr(LAUNCH, name) for name in Launch.__slots__} | {"submissions": submissions})
    write_launch(tmp_path, launch)
    assert read_launch(tmp_path) == launch
    assert launch.jobs == (("7",) if submissions else ())


def test_launches_are_found_by_their_file(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        write_launch(tmp_path / name, LAUNCH)
    (tmp_path / "c").mkdir()
    assert launches(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert launches(tmp_path / "none") == []


@pytest.mark.parametrize("text", ["", "[]", '{"runs": []}', json.dumps({"runs": [{"seed": 1}], "submissions": []})])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match="expected what slip launch writes"):
        read_launch(tmp_path)


def test_no_launch_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"launch.json: no launch there"):
        read_launch(tmp_path)
