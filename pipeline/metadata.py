"""Rows of metadata, as Arrow batches of bounded size, whatever they are stored in.

Two sources: YFCC100M's metadata in its second form (v2: 25 columns, text or bzip2, one or more files
taken as one), and, for pictures of one's own, Parquet tables (`local_table`). Text is handed on as it is
stored. Malformed rows are counted; which of the others are wanted is left to `selection`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.lines import Block, parse_integers, read_blocks, split_columns, stored_bytes
from pipeline.local_table import read_tables

V2_COLUMNS = (
    "line",
    "photo_id",
    "key",
    "user_id",
    "user",
    "date_taken",
    "date_uploaded",
    "device",
    "title",
    "description",
    "tags",
    "machine_tags",
    "longitude",
    "latitude",
    "accuracy",
    "page_url",
    "url",
    "license",
    "license_url",
    "server",
    "farm",
    "secret",
    "original_secret",
    "extension",
    "marker",
)
V1_NUM_COLUMNS = 23

_TEXT_COLUMNS = ("title", "description", "user", "date_taken", "page_url", "license", "license_url")
_WHAT = "YFCC100M's metadata (25 columns separated by tabs)"
_LINES_JUDGED = 1000
"""So many first lines decide whether a file is metadata with faults, or something else."""

Source = Literal["flickr", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Consecutive rows of metadata.

    `batch` has the columns row (int64: 0-based position, malformed rows counted too), url, title, description,
    user, date_taken, page_url, license, license_url. For flickr also line, photo_id (int64) and is_video; texts
    are bytes, percent-encoded. For local also key; texts are strings.
    """

    batch: pa.RecordBatch
    num_malformed: int
    bytes_read: int
    """Of all files so far, as stored."""


def total_bytes(paths: Sequence[str], *, source: Source) -> int:
    """Size of all files as stored; an InputError when one is missing, empty or a folder."""
    what = _WHAT if source == "flickr" else "a Parquet table"
    return sum(stored_bytes(path, what=what) for path in paths)


def open_rows(paths: Sequence[str], *, source: Source) -> Iterator[Rows]:
    """All rows of all files, in order."""
    if source == "local":
        for table in read_tables(paths):
            yield Rows(batch=table.batch, num_malformed=table.num_malformed, bytes_read=table.bytes_read)
        return
    first_row = bytes_before = 0
    for path in paths:
        num_lines = stored = 0
        for block in read_blocks(path, what=_WHAT):
            rows, num_lines = _rows(block, first_row=first_row, bytes_before=bytes_before)
            num_lines += block.first_line
            stored = block.stored_bytes
            yield rows
        first_row += num_lines
        bytes_before += stored


def _check_width(url: str, widths: NDArray[np.int64]) -> None:
    """Raise unless most of a file's first lines have v2's number of columns."""
    is_wrong = widths[:_LINES_JUDGED] != len(V2_COLUMNS)
    if not is_wrong.size or is_wrong.mean() <= 0.5:
        return
    line = int(np.argmax(is_wrong))
    found = int(widths[line])
    advice = (
        "this is YFCC100M's first form, which is not read yet; use the second, yfcc100m_dataset.bz2"
        if found == V1_NUM_COLUMNS
        else f"expected {_WHAT}"
    )
    raise InputError(
        f"{url}: wrong column count: line {line + 1} has {found} columns instead of {len(V2_COLUMNS)} (wrong in "
        f"{int(is_wrong.sum())} of the first {is_wrong.size} lines); {advice}"
    )


def _rows(block: Block, *, first_row: int, bytes_before: int) -> tuple[Rows, int]:
    """The rows of one block, and how many lines it has."""
    columns = split_columns(block, V2_COLUMNS, wanted=("line", "photo_id", "url", "marker", *_TEXT_COLUMNS))
    if block.first_line == 0:
        _check_width(block.url, columns.widths)
    fields = {name: columns.batch.column(name) for name in columns.batch.schema.names}
    line, is_line = parse_integers(fields["line"])
    photo_id, is_photo_id = parse_integers(fields["photo_id"])
    is_url = pc.or_(pc.starts_with(fields["url"], "http://"), pc.starts_with(fields["url"], "https://"))
    is_good = is_line & is_photo_id & is_url.to_numpy(zero_copy_only=False)
    arrays = {
        "row": pa.array(first_row + columns.lines),
        "line": pa.array(line),
        "photo_id": pa.array(photo_id),
        "is_video": pc.equal(fields["marker"], b"1"),
        **{name: fields[name] for name in ("url", *_TEXT_COLUMNS)},
    }
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    if not is_good.all():
        batch = batch.filter(pa.array(is_good))
    num_lines = len(columns.widths)
    rows = Rows(batch=batch, num_malformed=num_lines - batch.num_rows, bytes_read=bytes_before + block.stored_bytes)
    return rows, num_lines
