"""Parquet with the published names of columns, in the types people store them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.metadata import parquet as metadata_parquet
from pipeline.metadata.metadata import form, open_chunks
from tests.yfcc_files import config_of, read_all

PUBLISHED: dict[str, list[Any]] = {
    "photoid": [11, 12, 13, 14],
    "downloadurl": ["http://x/11.jpg", "https://x/12.jpg", "ftp://x", "http://x/14.jpg"],
    "title": ["A", None, "C", "D"],
    "description": ["a", "b", "c", "d"],
    "unickname": ["u", "v", "w", "x"],
    "marker": [0, 1, 0, 0],
    "licensename": ["by", "by", "by", "by-sa"],
    "key": ["k11", "k12", "k13", "k14"],
}


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_published_names(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.bin", PUBLISHED)
    table, num_malformed, (rows,) = read_all(config_of(path))
    assert (num_malformed, rows.is_encoded, form(config_of(path))) == (1, True, "parquet")
    assert table["row"].to_pylist() == [0, 1, 3]
    assert table["line"].to_pylist() == [-1, -1, -1]
    assert table["photo_id"].to_pylist() == [11, 12, 14]
    assert table["bucket_key"].to_pylist() == [b"k11", b"k12", b"k14"]
    assert table["is_video"].to_pylist() == [False, True, False]
    assert table["title"].to_pylist() == [b"A", b"", b"D"]
    assert table["license"].to_pylist() == [b"by", b"by", b"by-sa"]
    assert table["page_url"].to_pylist() == [b"", b"", b""]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("photoid", pa.array(["11", "12", "13", "14"])),
        ("photoid", pa.array([11, 12, 13, 14], pa.int32())),
        ("photoid", pa.array(["11", "12", "13", "14"]).dictionary_encode()),
        ("downloadurl", pa.array(PUBLISHED["downloadurl"], pa.large_string())),
        ("downloadurl", pa.array([str(url).encode() for url in PUBLISHED["downloadurl"]], pa.binary())),
        ("title", pa.array(PUBLISHED["title"]).dictionary_encode()),
        ("marker", pa.array([False, True, False, False])),
        ("marker", pa.array(["0", "1", "0", "0"])),
        ("key", pa.array(["k11", "k12", "k13", "k14"]).cast(pa.string_view())),
    ],
)
def test_other_types_of_columns(tmp_path: Path, name: str, values: pa.Array) -> None:
    expected, *_ = read_all(config_of(write(tmp_path / "a.parquet", PUBLISHED)))
    found, *_ = read_all(config_of(write(tmp_path / "b.parquet", PUBLISHED | {name: values})))
    assert found.equals(expected)


def test_rows_without_a_photo_id_are_malformed(tmp_path: Path) -> None:
    for ids in ([11, None, -3, 14], ["11", "", "x", "14"]):
        table, num_malformed, _ = read_all(config_of(write(tmp_path / "a.parquet", PUBLISHED | {"photoid": ids})))
        assert (table["photo_id"].to_pylist(), num_malformed) == ([11, 14], 2)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_small_row_groups_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    path = write(tmp_path / "a.parquet", PUBLISHED | {"downloadurl": ["http://x"] * 4}, row_group_size=1)
    monkeypatch.setattr(metadata_parquet, "CHUNK_ROWS", chunk_rows)
    table, _, batches = read_all(config_of(path))
    assert table["row"].to_pylist() == [0, 1, 2, 3]
    assert [rows.batch.num_rows for rows in batches] == {1: [1] * 4, 3: [3, 1], 100: [4]}[chunk_rows]
    few, *_ = read_all(config_of(path), lambda batch: batch.column("row").to_numpy() == 2)
    assert few.equals(table.slice(2, 1))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.jpg"], "title": ["A"]}, r"no column photo_id or photoid, url or downloadurl.*--dataset local"),
        ({name: values[:0] for name, values in PUBLISHED.items()}, "no rows"),
        (PUBLISHED | {"title": [["A"]] * 4}, "column title holds list"),
    ],
)
def test_other_tables(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(InputError, match=message) as caught:
        read_all(config_of(path))
    assert str(path) in str(caught.value)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", {name: values * 1000 for name, values in PUBLISHED.items()}, compression="zstd"
    )
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-100])
    with pytest.raises(InputError, match=r"a\.parquet: the Parquet file is damaged"):
        list(open_chunks(config_of(path)))
    data[10:300] = bytes(290)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: the Parquet file is damaged"):
        read_all(config_of(path))
