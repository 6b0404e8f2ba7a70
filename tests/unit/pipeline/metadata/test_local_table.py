"""Parquet tables of one's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.fetch.sources import read_local
from pipeline.metadata import local_table
from pipeline.metadata.metadata import open_chunks, total_bytes
from pipeline.metadata.rows import Rows
from tests.yfcc_files import config_of, read_all


def write(path: Path, /, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def read(*urls: str) -> tuple[list[dict[str, Any]], list[Rows]]:
    table, _, batches = read_all(config_of(*urls, dataset="local"))
    *_, last = open_chunks(config_of(*urls, dataset="local"))
    assert last.done_bytes == total_bytes(config_of(*urls, dataset="local"))
    return table.to_pylist(), batches


def test_paths_and_captions(tmp_path: Path) -> None:
    (tmp_path / "a b#1.jpg").write_bytes(b"picture")
    url = write(
        tmp_path / "t.parquet",
        path=["a b#1.jpg", "/abs/é.jpg", "file:///abs/c.jpg"],
        title=["A", None, "C"],
        caption=["one", "two", None],
        user=["u", "v", None],
    )
    rows, batches = read(url)
    assert [row["url"] for row in rows] == [
        (tmp_path / "a b#1.jpg").as_uri(),
        "file:///abs/%C3%A9.jpg",
        "file:///abs/c.jpg",
    ]
    assert [(row["key"], row["row"]) for row in rows] == [("000000000", 0), ("000000001", 1), ("000000002", 2)]
    assert [(row["title"], row["description"], row["user"]) for row in rows] == [
        ("A", "one", "u"),
        ("", "two", "v"),
        ("C", "", ""),
    ]
    assert not batches[0].is_encoded
    assert next(read_local([rows[0]["url"]])) == b"picture"  # what fetch makes of it


def test_pictures_inside_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_table, "CHUNK_ROWS", 2)
    one = write(tmp_path / "one #1.parquet", image=[b"0", b"1", b"2"], caption=["a", "b", "c"], key=[7, 8, 9])
    two = write(tmp_path / "two.parquet", image=[b"3"], caption=["d"])
    rows, batches = read(one, two)
    assert len(batches) == 3
    assert [row["key"] for row in rows] == ["7", "8", "9", "000000003"]
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert [row["url"].rpartition("#")[2] for row in rows] == ["0", "1", "2", "0"]
    assert rows[0]["url"] == (tmp_path / "one #1.parquet").as_uri().replace("file:", "parquet:") + "#0"
    assert list(read_local([row["url"] for row in rows])) == [b"0", b"1", b"2", b"3"]


def test_a_row_without_path_is_malformed(tmp_path: Path) -> None:
    rows, batches = read(write(tmp_path / "t.parquet", path=["a.jpg", None, "", "d.jpg"], title=["A", "B", "C", "D"]))
    assert [row["row"] for row in rows] == [0, 3]
    assert sum(batch.num_malformed for batch in batches) == 2


@pytest.mark.parametrize("key", ["", None, "a.b", "a/b", "a b", "a\u00a0b", "a\n", "x" * 91])
def test_keys_that_cannot_name_files(tmp_path: Path, key: str | None) -> None:
    url = write(tmp_path / "t.parquet", path=["a", "b"], title=["A", "B"], key=pa.array(["fine-1_é", key], pa.string()))
    with pytest.raises(InputError, match=r"t\.parquet: row 1 has the key"):
        read(url)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": ["a"], "title": ["A"]}, "has the columns picture, title; expected columns path or image"),
        ({"path": ["a"], "text": ["A"]}, "has the columns path, text"),
        ({"path": [], "title": []}, "no rows"),
        ({"path": ["a"], "title": [["A"]]}, "column title holds list"),
        ({"path": ["s3://bucket/a.jpg"], "title": ["A"]}, "not on a local file system"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "t.parquet", **columns))


def test_no_parquet_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("path,title\n")
    with pytest.raises(InputError, match="not a readable Parquet table"):
        read(str(path))
    with pytest.raises(InputError, match="no such file; expected a Parquet table"):
        read(str(tmp_path / "absent"))
