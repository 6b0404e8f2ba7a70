"""The SQLite form: any gaps between rowids, any number of chunks, odd values, other databases."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.metadata import sqlite as metadata_sqlite
from pipeline.metadata.metadata import open_chunks, read_chunk
from tests.yfcc_files import PUBLISHED_COLUMNS, config_of, read_all, row, write_sqlite


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_rowids_with_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    monkeypatch.setattr(metadata_sqlite, "CHUNK_ROWS", chunk_rows)
    rowids = sorted(random.Random(0).sample(range(-50, 10**12), 40))
    path = write_sqlite(tmp_path / "rows.db", [row(0, number) for number in range(40)], rowids=rowids)
    table, num_malformed, batches = read_all(config_of(path))
    assert table["photo_id"].to_pylist() == table["row"].to_pylist() == list(range(40))
    assert num_malformed == 0
    assert len(batches) == -(-40 // chunk_rows)
    *_, last = open_chunks(config_of(path))
    assert last.done_bytes == path.stat().st_size


def test_the_photo_id_may_be_the_rowid(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as database, database:
        columns = PUBLISHED_COLUMNS.replace("photoid", "photoid INTEGER PRIMARY KEY")
        database.execute(f"CREATE TABLE yfcc100m_dataset ({columns})")
        for photo in (9_000_000_000, 5, 70):
            values = [photo, *[""] * 13, "http://x/y.jpg", *[""] * 7, photo == 70]
            database.execute(f"INSERT INTO yfcc100m_dataset VALUES ({', '.join('?' * 23)})", values)
    table, *_ = read_all(config_of(path))
    assert table["photo_id"].to_pylist() == [5, 70, 9_000_000_000]
    assert table["is_video"].to_pylist() == [False, True, False]


def test_values_of_other_types(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "rows.db", [row(0, number) for number in range(7)])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE yfcc100m_dataset SET title = NULL, description = 2008 WHERE photoid = 1")
        database.execute("UPDATE yfcc100m_dataset SET photoid = 'x' WHERE photoid = 2")
        database.execute("UPDATE yfcc100m_dataset SET downloadurl = NULL WHERE photoid = 3")
        database.execute("UPDATE yfcc100m_dataset SET photoid = -4 WHERE photoid = 4")
        database.execute("UPDATE yfcc100m_dataset SET title = CAST(x'ff00' AS TEXT), downloadurl = 5 WHERE photoid = 5")
        database.execute("UPDATE yfcc100m_dataset SET downloadurl = CAST(x'ff' AS TEXT) WHERE photoid = 5")
        database.execute("UPDATE yfcc100m_dataset SET title = CAST(x'ff41' AS TEXT), marker = NULL WHERE photoid = 6")
    table, num_malformed, _ = read_all(config_of(path))
    assert num_malformed == 4
    assert table["row"].to_pylist() == [0, 1, 6]
    assert table["title"].to_pylist() == [b"The+title", b"", b"\xffA"]
    assert table["description"].to_pylist() == [b"The+description", b"2008", b"The+description"]
    assert table["is_video"].to_pylist() == [False, False, False]


def test_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "read only"
    folder.mkdir()
    path = write_sqlite(folder / "rows#1.db", [row(0, 1)])
    before = path.read_bytes()
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert read_all(config_of(path))[0].num_rows == 1
        assert [entry.name for entry in folder.iterdir()] == ["rows#1.db"]
        assert path.read_bytes() == before
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("CREATE TABLE photos (id)", r"no table yfcc100m_dataset in this SQLite file \(it has: photos\)"),
        ("CREATE TABLE yfcc100m_dataset (photoid, title)", "has no column unickname, .*it has: photoid, title"),
        (f"CREATE TABLE yfcc100m_dataset ({PUBLISHED_COLUMNS})", "has no rows"),
        (
            f"CREATE TABLE yfcc100m_dataset ({PUBLISHED_COLUMNS}, PRIMARY KEY (photoid)) WITHOUT ROWID",
            "cannot be read .no such column",
        ),
    ],
)
def test_other_databases(tmp_path: Path, statement: str, message: str) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    with pytest.raises(InputError, match=message) as caught:
        read_all(config_of(path))
    assert str(path) in str(caught.value)


def test_a_damaged_database(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "rows.db", [row(0, number) for number in range(2000)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"rows\.db: the SQLite file cannot be read"):
        read_all(config_of(path))


def test_only_from_a_local_disk(tmp_path: Path) -> None:
    import fsspec

    path = write_sqlite(tmp_path / "rows.db", [row(0, 1)])
    with fsspec.open("memory://sqlite/rows.db", "wb") as file:
        file.write(path.read_bytes())
    with pytest.raises(InputError, match=r"memory://sqlite/rows\.db: a SQLite file is read from a local disk only"):
        list(open_chunks(config_of("memory://sqlite/rows.db")))


def test_rows_that_vanish_while_reading_are_noticed(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "rows.db", [row(0, number) for number in range(5)])
    (chunk,) = open_chunks(config_of(path))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM yfcc100m_dataset")
    with pytest.raises(InputError, match="changed while it was read"):
        read_chunk(chunk)
