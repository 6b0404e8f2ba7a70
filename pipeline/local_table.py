"""Rows of `--source local`: Parquet tables of one's own pictures and captions.

Columns: path (relative to the table's folder, or absolute) or image (the bytes); title and description, or
caption; optionally key, user, date_taken, page_url, license, license_url. Pictures are named here, as
`file:///path` or `parquet:///table#row` with special characters percent-encoded, not read: `sources` does that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import InputError
from pipeline.lines import stored_bytes
from pipeline.store_faults import translated

BATCH_ROWS = 10_000
MAX_KEY_BYTES = 90
"""A member of a plain tar has a name of at most 100 bytes, and `.jpg`, `.json` follow the key."""

_OPTIONAL = ("key", "title", "description", "user", "date_taken", "page_url", "license", "license_url")
_FORBIDDEN = re.compile(r"[./\\\s\x00-\x1f\x7f]")
_COLUMNS = "columns path or image, and title, description or caption"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """Consecutive rows: row, key, url and texts; see `metadata.Rows`."""

    batch: pa.RecordBatch
    num_malformed: int
    bytes_read: int


def read_tables(urls: Sequence[str]) -> Iterator[TableRows]:
    """All rows of all tables, in order; a row without a path is malformed."""
    first_row = bytes_before = 0
    for url in urls:
        num_bytes = stored_bytes(url, what="a Parquet table")
        with translated(url, "read"):
            filesystem, path = store.filesystem(url)
            opened: BinaryIO = filesystem.open(path, "rb")
        with closing(opened):
            table = _open(url, opened)
            num_rows = table.metadata.num_rows
            done = 0
            for batch in _batches(url, table):
                bytes_read = bytes_before + num_bytes * (done + batch.num_rows) // num_rows
                yield _rows(url, batch, row=first_row + done, row_in_table=done, bytes_read=bytes_read)
                done += batch.num_rows
            first_row += num_rows
            bytes_before += num_bytes


def _open(url: str, opened: BinaryIO) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(opened)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{url}: not a readable Parquet table ({error}); expected one with {_COLUMNS}") from error
    names = table.schema_arrow.names
    if not {"path", "image"} & set(names) or not {"title", "description", "caption"} & set(names):
        raise InputError(f"{url}: the table has the columns {', '.join(names)}; expected {_COLUMNS}")
    if table.metadata.num_rows == 0:
        raise InputError(f"{url}: the table has no rows; expected {_COLUMNS}")
    if "image" in names and not store.is_local(url):
        raise InputError(f"{url}: pictures inside a table are read from local tables only; copy it to a local folder")
    return table


def _batches(url: str, table: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """The table's batches of text columns; pictures are not read."""
    names = set(table.schema_arrow.names)
    wanted = [name for name in (*_OPTIONAL, "caption") if name in names]
    if "image" not in names:
        wanted.append("path")
    try:
        yield from table.iter_batches(batch_size=BATCH_ROWS, columns=wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{url}: the table is damaged ({error}); write it again") from error


def _texts(url: str, batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column as strings, missing values as ""; all "" when there is no such column."""
    if name not in batch.schema.names:
        return pa.array([""] * batch.num_rows, pa.string())
    try:
        column = batch.column(name).cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        found = batch.schema.field(name).type
        raise InputError(f"{url}: column {name} holds {found}; expected text ({error})") from error
    return pc.fill_null(column, "")


def _keys(url: str, batch: pa.RecordBatch, row: int, row_in_table: int) -> pa.Array:
    """The user's keys, checked, or the row's number with 9 digits."""
    if "key" not in batch.schema.names:
        return pa.array([f"{number:09d}" for number in range(row, row + batch.num_rows)], pa.string())
    keys = _texts(url, batch, "key")
    for offset, key in enumerate(keys.to_pylist()):
        if not key or _FORBIDDEN.search(key) or len(key.encode()) > MAX_KEY_BYTES:
            raise InputError(
                f"{url}: row {row_in_table + offset} has the key {key[:200]!r}; a key names files in a tar: not empty, "
                f"at most {MAX_KEY_BYTES} bytes, without dots, slashes and white space"
            )
    return keys


def _file_url(table_url: str, path: str) -> str:
    """Where a picture is: ("/data/t.parquet", "a b.jpg") -> "file:///data/a%20b.jpg"; "" stays ""."""
    if not path:
        return ""
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    folder = Path(store.parent(table_url).removeprefix("file://")).absolute()
    if "://" in path or (not store.is_local(table_url) and not path.startswith("/")):
        raise InputError(
            f"{table_url}: the picture {path} is not on a local file system; copy the pictures beside a local table"
        )
    return (folder / path).as_uri()


def _rows(url: str, batch: pa.RecordBatch, *, row: int, row_in_table: int, bytes_read: int) -> TableRows:
    if "path" in batch.schema.names:
        urls = [_file_url(url, path) for path in _texts(url, batch, "path").to_pylist()]
    else:
        table = Path(url.removeprefix("file://")).absolute().as_uri().replace("file:", "parquet:", 1)
        urls = [f"{table}#{number}" for number in range(row_in_table, row_in_table + batch.num_rows)]
    texts = {name: _texts(url, batch, name) for name in _OPTIONAL if name != "key"}
    if "description" not in batch.schema.names:
        texts["description"] = _texts(url, batch, "caption")
    arrays = {
        "row": pa.array(np.arange(row, row + batch.num_rows)),
        "key": _keys(url, batch, row, row_in_table),
        "url": pa.array(urls, pa.string()),
        **texts,
    }
    whole = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    good = whole.filter(pc.not_equal(whole.column("url"), ""))
    return TableRows(batch=good, num_malformed=whole.num_rows - good.num_rows, bytes_read=bytes_read)
