"""Nothing stays of what was written, and nothing else goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import store
from slip.doctor.traces import Traces


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_folders_that_were_made_go_with_their_files(tmp_path: Path) -> None:
    with Traces() as traces:
        folder = traces.folder(tmp_path / "runs/b/.trial")
        (folder / "x").write_text("1")
        assert everything(tmp_path) == ["runs", "runs/b", "runs/b/.trial", "runs/b/.trial/x"]
    assert everything(tmp_path) == []


def test_what_was_there_or_came_from_others_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/old").write_text("mine")
    with Traces() as traces:
        traces.folder(tmp_path / "runs/b/.trial")
        (tmp_path / "runs/b/other").write_text("of another program")
    assert everything(tmp_path) == ["runs", "runs/b", "runs/b/other", "runs/old"]


def test_it_goes_when_something_fails_too(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/object"

    def fail() -> None:
        with Traces() as traces:
            traces.folder(tmp_path / "runs")
            store.write_bytes(traces.file(url), b"1")
            store.write_bytes(traces.file(str(tmp_path / "file")), b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert everything(tmp_path) == []
    assert not store.exists(url)


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    traces = Traces()
    (tmp_path / "folder").mkdir()
    traces.file(str(tmp_path / "folder"))  # a file's removal refuses it
    traces.file(str(tmp_path / "never written"))
    (left,) = traces.clear()
    assert left.startswith(f"{tmp_path}/folder: cannot delete")
