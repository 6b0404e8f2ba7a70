"""How many rows a file of metadata or a list holds, without reading all of a large one.

Comes in: a path or URL. Goes out: a number, whether it is exact, and how it was found out. Parquet says it itself,
short texts are counted, long ones judged by their beginning.
"""

from __future__ import annotations

import bz2
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import InputError
from pipeline.store_faults import translated

COUNTED_TEXT_BYTES = 2 << 30
"""Local text up to this size is counted: a second or two, which holds the published lists."""
COUNTED_BZ2_BYTES = 16 << 20
_HEAD_BYTES = 8 << 20
_REMOTE_HEAD_BYTES = 1 << 20
_BLOCK_BYTES = 16 << 20

V2_ROW_BYTES = 495.0
"""Text of a row of YFCC100M's metadata: 49.5 GB / 100 M rows."""
SQLITE_ROW_BYTES = 656.44
"""65,644,027,904 bytes / 100 M rows, of the SQLite file in the public bucket."""
BZ2_RATIO = 3.3
"""Text over bzip2 of YFCC100M's metadata: 49.5 GB / 15 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of rows."""

    rows: int
    is_exact: bool
    how: str


def _row_mark(data: bytes) -> bytes:
    """What each row has once: a line feed, or in RedCaps' JSON files the name of a field."""
    return b'"image_id"' if data.lstrip()[:1] == b"{" and b'"annotations"' in data[: 1 << 16] else b"\n"


def _count_text(file: BinaryIO | bz2.BZ2File) -> int:
    """Rows of a whole text; the last line needs no line feed."""
    data = file.read(_BLOCK_BYTES)
    mark = _row_mark(data)
    count, last = 0, b"\n"
    while data:
        count, last = count + data.count(mark), data[-1:]
        tail = data[-len(mark) + 1 :] if len(mark) > 1 else b""  # a mark may straddle two blocks
        fresh = file.read(_BLOCK_BYTES)
        data = tail + fresh if fresh else b""
    return count + (mark == b"\n" and last != b"\n")


def _by_head(url: str, num_bytes: int, head: bytes) -> Count:
    """Rows from the bytes a row takes in the beginning of a text."""
    ratio, row_bytes = 1.0, V2_ROW_BYTES
    text = head
    if head.startswith(b"BZh"):
        ratio = BZ2_RATIO
        with translated(url, "read"):
            try:
                text = bz2.BZ2Decompressor().decompress(head)
            except OSError as error:
                raise InputError(f"{url}: the bzip2 data is damaged ({error}); download it again") from None
        # The last block is cut short, which in 8 MB of blocks of 900 kB text changes little.
        ratio = len(text) / len(head) if text and len(head) == _HEAD_BYTES else BZ2_RATIO
    if marks := text.count(_row_mark(text)):
        row_bytes = len(text) / marks
    how = f"{row_bytes:.0f} bytes a row" + (f", text {ratio:.1f} times its bzip2" if ratio != 1 else "")
    return Count(rows=round(num_bytes * ratio / row_bytes), is_exact=False, how=f"size, at {how}")


def count_rows(url: str) -> Count:
    """Rows of one file; an InputError when there is none, StoreError when it cannot be read."""
    num_bytes = store.size(url)
    if num_bytes is None:
        raise InputError(f"{url}: there is no such file; name an existing one")
    is_local = store.is_local(url)
    head = store.read_range(url, 0, min(num_bytes, _HEAD_BYTES if is_local else _REMOTE_HEAD_BYTES))
    filesystem, path = store.filesystem(url)
    if head.startswith(b"PAR1"):
        with translated(url, "read"), filesystem.open(path, "rb") as file:
            try:
                rows = pq.ParquetFile(file).metadata.num_rows
            except pa.ArrowInvalid as error:
                raise InputError(f"{url}: not a readable Parquet table ({error}); copy it again") from None
        return Count(rows=rows, is_exact=True, how="the table says so")
    if head.startswith(b"SQLite format 3"):
        rows = round(num_bytes / SQLITE_ROW_BYTES)
        return Count(rows=rows, is_exact=False, how=f"size, at {SQLITE_ROW_BYTES:.0f} bytes a row")
    is_bzip2 = head.startswith(b"BZh")
    if not is_local or num_bytes > (COUNTED_BZ2_BYTES if is_bzip2 else COUNTED_TEXT_BYTES):
        return _by_head(url, num_bytes, head)
    with translated(url, "read"), filesystem.open(path, "rb") as file:
        try:
            rows = _count_text(bz2.BZ2File(file) if is_bzip2 else file)
        except (OSError, EOFError) as error:
            raise InputError(f"{url}: the bzip2 data is damaged ({error}); download it again") from None
    return Count(rows=rows, is_exact=True, how="counted")
