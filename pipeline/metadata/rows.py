"""What readers of metadata hand on: chunks (what one process parses at a time) and rows (what it finds there).

Pure records, shared by the readers of all forms and by their caller `metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Form = Literal["v1", "v2", "sqlite", "parquet", "local", "cc3m", "cc12m", "redcaps", "declip"]

CHEAP_COLUMNS = ("row", "line", "photo_id", "bucket_key", "is_video")
TEXT_COLUMNS = ("title", "description", "user", "date_taken", "page_url", "license", "license_url")
COLUMNS = (*CHEAP_COLUMNS, "key", "url", *TEXT_COLUMNS)

CHUNK_ROWS = 50_000
"""Rows of a chunk where rows can be counted without reading text."""

Wanted = Callable[[pa.RecordBatch], NDArray[np.bool_]]
"""Says by its CHEAP_COLUMNS which rows are wanted, before the other columns are built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of one file, not parsed yet; goes to the process that parses them."""

    url: str
    form: Form
    first_row: int
    """0-based position, over all files, of its first row."""
    num_rows: int
    """Positions it covers, malformed rows among them."""
    done_bytes: int
    """Of all files, as stored, when this chunk has been read."""
    data: bytes = b""
    """Its text, where that had to be unpacked or fetched; else it is read from the file."""
    start: int = 0
    """Where it begins in the file: a byte of text, a row of a table, a rowid."""
    stop: int = 0
    """Where it ends, exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Well-formed rows of a chunk, in order."""

    batch: pa.RecordBatch
    """Always all of COLUMNS. int64: row (global position, malformed rows counted too), line and photo_id (-1
    unknown); bool: is_video; string: key ("" where the photo id serves). The others, "" where unknown, are binary when
    encoded, else strings: bucket_key, url, title, description, user, date_taken, page_url, license, license_url."""
    num_malformed: int
    num_unwanted: int
    """Well-formed rows that `Wanted` left out."""
    is_encoded: bool
    """Whether texts are as stored in YFCC100M: percent-encoded bytes."""


def cheap_batch(
    *,
    row: NDArray[np.int64],
    line: NDArray[np.int64] | None,
    photo_id: NDArray[np.int64] | None,
    bucket_key: pa.Array,
    is_video: NDArray[np.bool_] | None,
) -> pa.RecordBatch:
    """The CHEAP_COLUMNS; None where nothing is known."""
    unknown = np.full(len(row), -1)
    arrays = [
        pa.array(row),
        pa.array(unknown if line is None else line),
        pa.array(unknown if photo_id is None else photo_id),
        bucket_key,
        pa.array(np.zeros(len(row), np.bool_) if is_video is None else is_video),
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(CHEAP_COLUMNS))


def empty_texts(count: int, kind: pa.DataType) -> pa.Array:
    """So many empty texts."""
    return pa.repeat(pa.scalar("" if kind == pa.string() else b"", kind), count)


def chosen(batch: pa.RecordBatch, wanted: Wanted | None) -> NDArray[np.int64]:
    """Positions in the batch of the rows that are wanted."""
    if wanted is None:
        return np.arange(batch.num_rows)
    return np.flatnonzero(wanted(batch))


def whole_batch(cheap: pa.RecordBatch, texts: Mapping[str, pa.Array], *, is_encoded: bool) -> pa.RecordBatch:
    """All COLUMNS, from the cheap ones and what else there is of those rows."""
    count, kind = cheap.num_rows, pa.binary() if is_encoded else pa.string()
    missing = {name: empty_texts(count, kind) for name in ("url", *TEXT_COLUMNS) if name not in texts}
    arrays = {
        **{name: cheap.column(name) for name in CHEAP_COLUMNS},
        "key": empty_texts(count, pa.string()),
        **missing,
        **texts,
    }
    return pa.RecordBatch.from_arrays([arrays[name] for name in COLUMNS], names=list(COLUMNS))
