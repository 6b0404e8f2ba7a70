"""Rows of `--dataset local`: Parquet tables of one's own pictures and captions.

Columns: path (relative to the table's folder, or absolute) or image (the bytes); title and description, or
caption; optionally key, user, date_taken, page_url, license, license_url. Pictures are named here, as
`file:///path` or `parquet:///table#row` with special characters percent-encoded, not read: `sources` does that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import InputError
from pipeline.metadata.rows import (
    CHUNK_ROWS,
    TEXT_COLUMNS,
    Chunk,
    Rows,
    Wanted,
    cheap_batch,
    chosen,
    empty_texts,
    whole_batch,
)
from pipeline.store_faults import translated

MAX_KEY_BYTES = 90
"""A member of a plain tar has a name of at most 100 bytes, and `.jpg`, `.json` follow the key."""

_OPTIONAL = ("key", *TEXT_COLUMNS)
_FORBIDDEN = re.compile(r"[./\\\s\x00-\x1f\x7f]")
_COLUMNS = "columns path or image, and title, description or caption"


def is_key(text: str) -> bool:
    """Whether a text can name a sample's files in a tar."""
    return bool(text) and not _FORBIDDEN.search(text) and len(text.encode()) <= MAX_KEY_BYTES


def table_chunks(url: str, *, first_row: int, bytes_before: int, num_bytes: int) -> Iterator[Chunk]:
    """All rows of a table; chunks hold its texts, since row groups may be of any size."""
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        opened: BinaryIO = filesystem.open(path, "rb")
    with closing(opened):
        table = _open(url, opened)
        done = 0
        for batch in _batches(url, table):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            end = done + batch.num_rows
            yield Chunk(
                url=url,
                form="local",
                first_row=first_row + done,
                num_rows=batch.num_rows,
                done_bytes=bytes_before + num_bytes * end // table.metadata.num_rows,
                data=sink.getvalue().to_pybytes(),
                start=done,
                stop=end,
            )
            done = end


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
        yield from table.iter_batches(batch_size=CHUNK_ROWS, columns=wanted)
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
        if not is_key(key):
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


def read_table(chunk: Chunk, wanted: Wanted | None) -> Rows:
    """The rows of a chunk; a row without a path is malformed."""
    (batch,) = pa.ipc.open_stream(chunk.data)
    url = chunk.url
    if "path" in batch.schema.names:
        urls = [_file_url(url, path) for path in _texts(url, batch, "path").to_pylist()]
    else:
        table = Path(url.removeprefix("file://")).absolute().as_uri().replace("file:", "parquet:", 1)
        urls = [f"{table}#{number}" for number in range(chunk.start, chunk.stop)]
    texts = {name: _texts(url, batch, name) for name in TEXT_COLUMNS}
    if "description" not in batch.schema.names:
        texts["description"] = _texts(url, batch, "caption")
    texts |= {"key": _keys(url, batch, chunk.first_row, chunk.start), "url": pa.array(urls, pa.string())}
    good = np.flatnonzero(np.array([bool(url) for url in urls], np.bool_))
    cheap = cheap_batch(
        row=chunk.first_row + good,
        line=None,
        photo_id=None,
        bucket_key=empty_texts(len(good), pa.string()),
        is_video=None,
    )
    taken = chosen(cheap, wanted)
    rows = pa.array(good[taken])
    return Rows(
        batch=whole_batch(
            cheap.take(pa.array(taken)), {name: column.take(rows) for name, column in texts.items()}, is_encoded=False
        ),
        num_malformed=chunk.num_rows - len(good),
        num_unwanted=len(good) - len(taken),
        is_encoded=False,
    )
