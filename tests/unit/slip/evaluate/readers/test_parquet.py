"""Parquet: columns, splits, classes by number and by text, and what is said when something is wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.readers.classes import Wanted
from slip.evaluate.readers.parquet import open_parquet

RED_GREEN = (("red", "crimson"), ("green",))


def write(path: Path, rows_per_group: int = 100, metadata: dict[str, str] | None = None, **columns: Any) -> str:
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=rows_per_group)
    return str(path)


def read(found: LabelledSet, split: str = "test") -> list[tuple[bytes, int]]:
    return [(bytes(picture.image), picture.label) for _, picture in found.splits[split].share(0, 1)]


def test_a_column_says_the_split(tmp_path: Path) -> None:
    url = write(
        *(tmp_path / "a.parquet", 2),
        jpg=[b"1", b"2", b"3", b"4", b"5"],
        label=["green", "red", "red", "green", "red"],
        split=["test", "train", "test", "test", "train"],
    )
    found = open_parquet(url, Wanted(name="x"))
    assert found.classnames == (("green",), ("red",))
    assert read(found) == [(b"1", 0), (b"3", 1), (b"4", 0)]
    assert read(found, "train") == [(b"2", 1), (b"5", 1)]
    assert found.splits["train"][1].name == f"{url}#4"


def test_a_file_name_says_the_split(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        write(tmp_path / f"{name}.parquet", image=[name.encode()] * 2, label=[0, 1])
    found = open_parquet(str(tmp_path), Wanted(name="x"))
    assert read(found) == [(b"validation-00000-of-00001", 0), (b"validation-00000-of-00001", 1)]
    assert {name: len(pictures) for name, pictures in found.splits.items()} == {"train": 2, "test": 2}


def test_hugging_faces_class_names_are_used(tmp_path: Path) -> None:
    about = {"info": {"features": {"label": {"names": ["green", "red"], "_type": "ClassLabel"}}}}
    url = write(tmp_path / "a.parquet", metadata={"huggingface": json.dumps(about)}, image=[b"1", b"2"], label=[1, 0])
    assert open_parquet(url, Wanted(name="x")).classnames == (("green",), ("red",))
    found = open_parquet(url, Wanted(name="x", classnames=RED_GREEN))
    assert found.classnames == (("green",), ("red", "crimson"))
    assert read(found) == [(b"1", 1), (b"2", 0)]


def test_numbers_without_names_are_labels(tmp_path: Path) -> None:
    url = write(tmp_path / "a.parquet", image=[b"1", b"2"], label=[1, 0])
    assert open_parquet(url, Wanted(name="x")).classnames == (("0",), ("1",))
    assert open_parquet(url, Wanted(name="x", classnames=RED_GREEN)).classnames == RED_GREEN


def test_texts_that_are_class_names_say_which_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classnames = (*RED_GREEN, ("blue",))
    url = write(tmp_path / "a.parquet", image=[b"1", b"2"], label=["Green", "crimson"])
    with caplog.at_level(logging.WARNING):
        found = open_parquet(url, Wanted(name="x", classnames=classnames))
    assert found.classnames == classnames
    assert read(found) == [(b"1", 1), (b"2", 0)]
    assert "no picture of 'blue'" in caplog.text


@pytest.mark.parametrize(
    ("columns", "wanted", "words"),
    [
        (
            {"pixels": [b""], "label": [0]},
            (),
            r"no column with the pictures: looked for image, img.*found pixels, label",
        ),
        ({"image": [b""], "class": [0]}, (), "no column with the labels: looked for label"),
        ({"image": [3], "label": [0]}, (), "column image holds int64, expected encoded pictures"),
        ({"image": [b"", b""], "label": [0, None]}, (), r"a\.parquet#1: its label is None, expected a class number"),
        ({"image": [b"", b""], "label": [0, 2]}, RED_GREEN, r"a\.parquet#1: label 2, expected one of the 2 classes"),
        (
            {"image": [b""] * 3, "label": ["red", "green", "blue"]},
            RED_GREEN,
            r"#2: label 'blue', expected one of the 2",
        ),
        ({"image": [b""] * 3, "label": ["x", "y", "z"]}, RED_GREEN, "3 classes, but colours has 2 class names"),
        (
            {"image": [b""] * 2, "label": [0, 1], "split": ["fit", "train"]},
            (),
            r"looked for split test.*found fit, train",
        ),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, (), "no rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, columns: dict[str, Any], wanted: Any, words: str) -> None:
    url = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(InputError, match=words):
        open_parquet(url, Wanted(name="colours", classnames=wanted))


def test_a_row_without_picture_is_named(tmp_path: Path) -> None:
    url = write(tmp_path / "a.parquet", image=[b"1", None], label=[1, 0])
    with pytest.raises(InputError, match=r"a\.parquet#1: no picture in column image"):
        read(open_parquet(url, Wanted(name="x")))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        open_parquet(str(tmp_path / "a.parquet"), Wanted(name="x"))
