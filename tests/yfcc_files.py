"""YFCC100M's metadata in all its published forms, small, for tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import BuildConfig
from pipeline.metadata.metadata import Rows, Wanted, open_chunks, read_chunk
from pipeline.metadata.rows import COLUMNS
from pipeline.metadata.text import V2_COLUMNS

ROW = (
    "0\t6985418911\t4e2f7a26a1dfbf165a7e30bdabf7e72a\t39089491@N00\tnino63004\t2012-02-16 09:56:37.0\t1331840483\t"
    "Canon+PowerShot\tThe+title\tThe+description\tcruise\t\t-81.8\t24.5\t12\thttp://www.flickr.com/photos/x/1/\t"
    "http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg\tAttribution License\thttp://creativecommons.org/by\t"
    "7205\t8\tdf7747990d\t692d7e0a7f\tjpg\t0"
)
PUBLISHED_COLUMNS = (
    "photoid, uid, unickname, datetaken, dateuploaded, capturedevice, title, description, usertags, machinetags, "
    "longitude, latitude, accuracy, pageurl, downloadurl, licensename, licenseurl, serverid, farmid, secret, "
    "secretoriginal, ext, marker"
)
"""Of the SQLite file's table, in v1's order."""


def row(line: int | str, photo_id: int | str, **fields: str) -> str:
    """A line of v2."""
    values = dict(zip(V2_COLUMNS, ROW.split("\t"), strict=True)) | {"line": str(line), "photo_id": str(photo_id)}
    return "\t".join((values | fields).values())


def as_v1(line: str) -> str:
    """A line of v2 as v1 has it: without line number and key."""
    fields = line.split("\t")
    return "\t".join([fields[1], *fields[3:]])


def write_sqlite(path: Path, lines: Iterable[str], *, rowids: Iterable[int] | None = None) -> Path:
    """Lines of v2 as the SQLite file of the public bucket; photoid and marker are integers where they can be."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE yfcc100m_dataset ("
            + PUBLISHED_COLUMNS.replace("photoid", "photoid integer").replace("marker", "marker integer")
            + ")"
        )
        marks = ", ".join("?" * 24)
        rows = [as_v1(line).split("\t") for line in lines]
        numbers = list(rowids) if rowids is not None else range(1, len(rows) + 1)
        database.executemany(
            f"INSERT INTO yfcc100m_dataset (rowid, {PUBLISHED_COLUMNS}) VALUES ({marks})",
            [(number, *fields) for number, fields in zip(numbers, rows, strict=True)],
        )
    return path


def config_of(*paths: Path | str, **settings: Any) -> BuildConfig:
    """Settings that read these files as YFCC100M's metadata."""
    defaults: dict[str, Any] = {"variant": "english", "output": "unused", "processes": 2}
    if settings.get("dataset", "yfcc") != "yfcc":
        del defaults["variant"]
    return BuildConfig(metadata=tuple(map(str, paths)), **(defaults | settings))


def read_all(config: BuildConfig, wanted: Wanted | None = None) -> tuple[pa.Table, int, list[Rows]]:
    """All rows, how many are malformed, and what came chunk by chunk; checks what must hold for any chunk."""
    batches, position, done_bytes = [], 0, 0
    for chunk in open_chunks(config):
        rows = read_chunk(chunk, wanted)
        assert chunk.first_row == position
        assert rows.batch.num_rows + rows.num_malformed + rows.num_unwanted == chunk.num_rows > 0
        assert rows.batch.schema.names == list(COLUMNS)
        assert chunk.done_bytes >= done_bytes
        position, done_bytes = position + chunk.num_rows, chunk.done_bytes
        batches.append(rows)
    table = pa.Table.from_batches([rows.batch for rows in batches])
    return table, sum(rows.num_malformed for rows in batches), batches
