"""Folders that appear whole or not at all, on disk and in a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import InputError
from slip.interchange.folder_out import write_folder


def fills(**files: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        assert not list(folder.iterdir())
        for name, text in files.items():
            (folder / name).write_text(text)

    return fill


def content(url: str) -> dict[str, str]:
    return {name: store.read_bytes(store.join(url, name)).decode() for name in store.list_names(url)}


def test_a_folder_is_written_once_and_never_over_another(output: str) -> None:
    assert write_folder(output, fills(a="1", config="2"), last="config")
    assert not write_folder(output, fills(a="1", config="2"), last="config")
    for other in ({"a": "1", "config": "3"}, {"a": "1"}, {"a": "long", "config": "2"}):
        with pytest.raises(InputError, match=r"is there already, with other content; delete it, or give another"):
            write_folder(output, fills(**other), last="config")
    assert content(output) == {"a": "1", "config": "2"}


def test_what_fails_leaves_nothing(output: str) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_text("1")
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        write_folder(output, fill, last="config")
    assert content(output) == {}
    assert write_folder(output, fills(a="1"), last="a")


def test_what_a_killed_one_left_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part/torn").touch()
    (tmp_path / "out").mkdir()
    assert write_folder(str(tmp_path / "out"), fills(a="1"), last="a")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert content(str(tmp_path / "out")) == {"a": "1"}


def test_a_store_gets_the_configuration_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{tmp_path}/out"
    order: list[str] = []
    put = store.put_file

    def stopped(path: str | Path, to: str) -> None:
        if len(order) == 2:
            raise KeyboardInterrupt
        order.append(to.rpartition("/")[2])
        put(path, to)

    monkeypatch.setattr(store, "put_file", stopped)
    files = {"a": "1", "config": "2", "weights": "3"}
    with pytest.raises(KeyboardInterrupt):
        write_folder(url, fills(**files), last="config")
    assert order == ["a", "weights"]
    monkeypatch.undo()
    # The same command again writes the rest.
    assert write_folder(url, fills(**files), last="config")
    assert content(url) == files


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match=r"out: is there already, a file"):
        write_folder(str(tmp_path / "out"), fills(a="1"), last="a")
    assert (tmp_path / "out").read_text() == "mine"
