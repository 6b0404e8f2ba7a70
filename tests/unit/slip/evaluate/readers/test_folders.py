"""Folders of pictures: which files count, how classes are numbered, what is said when something is wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.errors import InputError, StoreError
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.readers.classes import Wanted
from slip.evaluate.readers.folders import open_folders


def write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def names(found: LabelledSet, split: str = "test") -> list[str]:
    pictures = found.splits[split]
    return [picture.name.removeprefix(f"{found.url}/") for _, picture in pictures.share(0, 1)]


def test_pictures_at_any_depth_count_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "test/b/1.jpg", "test/b/more/2.JPEG", "test/a/3.webp", "test/a/notes.txt", "test/a/.4.jpg")
    write(tmp_path, "test/.hidden/5.jpg", "test/stray.jpg", "readme.md")
    found = open_folders(str(tmp_path), Wanted(name="x"))
    assert found.classnames == (("a",), ("b",))
    assert names(found) == ["test/a/3.webp", "test/b/1.jpg", "test/b/more/2.JPEG"]
    assert [found.splits["test"][i].label for i in range(3)] == [0, 1, 1]
    assert set(found.splits) == {"test"}


def test_classes_are_numbered_over_both_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/10/1.jpg", "train/9/2.jpg", "train/8/2.jpg", "val/10/3.png", "val/9/4.png")
    with caplog.at_level(logging.WARNING):
        found = open_folders(str(tmp_path), Wanted(name="x"))
    assert found.classnames == (("8",), ("9",), ("10",))
    assert [found.splits["test"][i].label for i in range(2)] == [2, 1]
    assert names(found, "train") == ["train/10/1.jpg", "train/8/2.jpg", "train/9/2.jpg"]
    assert "no picture of '8' in its test split" in caplog.text
    assert "train" not in caplog.text


def test_splits_may_be_called_otherwise(tmp_path: Path) -> None:
    write(tmp_path, "dev/a/1.jpg", "dev/b/1.jpg", "test/a/1.jpg", "fit/a/1.jpg", "fit/b/2.jpg")
    found = open_folders(str(tmp_path), Wanted(name="x", splits={"test": "dev", "train": "fit"}))
    assert names(found) == ["dev/a/1.jpg", "dev/b/1.jpg"]
    assert names(found, "train") == ["fit/a/1.jpg", "fit/b/2.jpg"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/1.jpg", "test/b/2.jpg")
    (tmp_path / "test/a").symlink_to(tmp_path / "elsewhere")
    assert names(open_folders(str(tmp_path), Wanted(name="x"))) == ["test/a/1.jpg", "test/b/2.jpg"]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["train/a/1.jpg"], "looked for test/, val/, validation/, valid/ with a folder per class"),
        (["test/1.jpg"], "test: no folders in it"),
        (["test/a/1.txt", "test/b/2.txt"], r"no pictures \(\.jpg, \.jpeg, \.png, \.webp\) in its 2 folders"),
        (["test/a/1.jpg"], "1 classes; at least 2"),
        (["test/a/1.jpg", "test/b/1.ppm"], r"test/b/1\.ppm: pictures of this kind are not read"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, paths: list[str], words: str) -> None:
    write(tmp_path, *paths)
    with pytest.raises(InputError, match=words):
        open_folders(str(tmp_path), Wanted(name="x"))


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    write(tmp_path, "test/a/1.jpg", "test/b/2.jpg")
    pictures = open_folders(str(tmp_path), Wanted(name="x")).splits["test"]
    (tmp_path / "test/b/2.jpg").unlink()
    with pytest.raises(StoreError, match=r"test/b/2\.jpg"):
        list(pictures.share(0, 1))
