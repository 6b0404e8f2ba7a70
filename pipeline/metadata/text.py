"""Rows of YFCC100M's metadata as text: v1 (23 columns) and v2 (25 columns), separated by tabs, not quoted.

What makes a selection fast is here: separators are found once, numbers and keys are read from between them for all
rows, and texts are taken out only for rows that somebody wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metadata.lines import MAX_DIGITS, Block, without_returns
from pipeline.metadata.rows import (
    TEXT_COLUMNS,
    Chunk,
    Form,
    Rows,
    Wanted,
    cheap_batch,
    chosen,
    empty_texts,
    whole_batch,
)
from pipeline.store_faults import translated

V2_COLUMNS = (
    "line",
    "photo_id",
    "bucket_key",
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
V1_COLUMNS = ("photo_id", *V2_COLUMNS[3:])

WHAT = f"YFCC100M's metadata ({len(V1_COLUMNS)} or {len(V2_COLUMNS)} columns separated by tabs)"
_PIECE_BYTES = 1 << 17
_LINES_JUDGED = 1000
"""So many first lines decide whether a file is metadata with faults, or something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """Where fields are in a text: those of the lines with the right number of columns."""

    text: NDArray[np.uint8]
    lines: NDArray[np.int64]
    """Which lines of the text these are, from 0."""
    starts: NDArray[np.int64]
    """Of each line, in bytes."""
    ends: NDArray[np.int64]
    """Lines x columns: where the separator behind a field stands."""

    def bounds(self, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the fields of a column begin and end."""
        return self.starts if column == 0 else self.ends[:, column - 1] + 1, self.ends[:, column]

    def integers(self, column: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """A column as `parse_integers` reads it, without copying it out first."""
        starts, stops = self.bounds(column)
        widths = stops - starts
        is_number = (widths > 0) & (widths <= MAX_DIGITS)
        values = np.zeros(len(starts), np.int64)
        for place in range(int(widths[is_number].max(initial=0))):
            is_digit = is_number & (place < widths)
            digits = self.text[np.where(is_digit, starts + place, 0)] - np.uint8(ord("0"))
            is_number &= ~is_digit | (digits < 10)
            values = np.where(is_digit, 10 * values + digits, values)
        return np.where(is_number, values, 0), is_number

    def column(self, column: int, lines: NDArray[np.int64] | None = None) -> pa.Array:
        """A column as bytes, of all lines or of these (indices into `lines`, ascending)."""
        starts, stops = self.bounds(column)
        if lines is not None:
            starts, stops = starts[lines], stops[lines]
        if not len(starts):
            return pa.array([], pa.binary())
        # The text itself as an array, in which every second value is one of the column's: Arrow copies those out
        # several times as fast as indexing does.
        offsets = np.empty(2 * len(starts), np.int32)
        offsets[0::2], offsets[1::2] = starts, stops
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.text)]
        both = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
        return both.take(pa.array(np.arange(0, len(offsets), 2)))


def _separators(text: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where tabs (9) and line feeds (10) are."""
    # In pieces that stay in the processor's cache.
    shifted, is_separator = np.empty(_PIECE_BYTES, np.uint8), np.empty(_PIECE_BYTES, np.bool_)
    found = []
    for start in range(0, len(text), _PIECE_BYTES):
        count = min(_PIECE_BYTES, len(text) - start)
        np.subtract(text[start : start + count], np.uint8(9), out=shifted[:count])
        np.less(shifted[:count], 2, out=is_separator[:count])
        found.append(np.flatnonzero(is_separator[:count]) + start)
    return np.concatenate(found)


def _widths(text: NDArray[np.uint8], separators: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many columns each line has."""
    return np.diff(np.flatnonzero(text[separators] == ord("\n")), prepend=-1)


def _split(chunk: Chunk, data: bytes, num_columns: int) -> _Fields:
    text = np.frombuffer(data, np.uint8)
    separators = _separators(text)
    widths = _widths(text, separators)
    if len(widths) != chunk.num_rows:
        raise InputError(f"{chunk.url}: changed while it was read; start again when it is complete")
    is_good = widths == num_columns
    line_ends = separators[np.cumsum(widths) - 1]
    starts = np.concatenate(([0], line_ends[:-1] + 1))
    if not is_good.all():
        separators = separators[np.repeat(is_good, widths)]
    return _Fields(
        text=text,
        lines=np.flatnonzero(is_good),
        starts=starts[is_good],
        ends=separators.reshape(-1, num_columns),
    )


def form_of_text(block: Block) -> Form:
    """Which form a file has, by the number of columns of most of its first lines."""
    data = without_returns(block.data, is_first=True)
    text = np.frombuffer(data, np.uint8)
    widths = _widths(text, _separators(text))[:_LINES_JUDGED]
    forms: tuple[tuple[Form, int], ...] = (("v2", len(V2_COLUMNS)), ("v1", len(V1_COLUMNS)))
    for form, width in forms:
        if (widths == width).mean() >= 0.5:
            return form
    line = int(np.argmax(widths != len(V2_COLUMNS)))
    raise InputError(
        f"{block.url}: wrong column count: line {line + 1} has {widths[line]} columns instead of {len(V2_COLUMNS)} "
        f"(v2) or {len(V1_COLUMNS)} (v1); expected {WHAT}"
    )


def chunk_text(chunk: Chunk) -> bytes:
    """The lines of a chunk, from the chunk itself or from the local file it points into."""
    data = chunk.data
    if not data:
        with translated(chunk.url, "read"), Path(chunk.url.split("://", 1)[-1]).open("rb") as file:
            file.seek(chunk.start)
            data = file.read(chunk.stop - chunk.start)
        if not data.endswith(b"\n"):
            data += b"\n"
    return without_returns(data, is_first=chunk.start == 0)


def _is_web(fields: _Fields, column: int) -> NDArray[np.bool_]:
    """Whether the fields begin with http:// or https://."""
    # Eight bytes at any place as one number; after a URL come 8 separators or more, so they are there.
    eight = np.ndarray((max(0, len(fields.text) - 7),), "<u8", fields.text.data, strides=(1,))
    begins = eight[fields.bounds(column)[0]]
    http, https = int.from_bytes(b"http://", "little"), int.from_bytes(b"https://", "little")
    is_web: NDArray[np.bool_] = ((begins & np.uint64((1 << 56) - 1)) == http) | (begins == https)
    return is_web


def read_text(chunk: Chunk, wanted: Wanted | None) -> Rows:
    """The rows of a chunk of v1 or v2."""
    names = V2_COLUMNS if chunk.form == "v2" else V1_COLUMNS
    data = chunk_text(chunk)
    fields = _split(chunk, data, len(names))
    photo_id, is_good = fields.integers(names.index("photo_id"))
    is_good = is_good & _is_web(fields, names.index("url"))
    line, bucket_key = None, empty_texts(len(photo_id), pa.binary())
    if chunk.form == "v2":
        line, is_line = fields.integers(0)
        is_good &= is_line
        bucket_key = fields.column(names.index("bucket_key"))
    marker, marker_end = fields.bounds(names.index("marker"))
    cheap = cheap_batch(
        row=chunk.first_row + fields.lines,
        line=line,
        photo_id=photo_id,
        bucket_key=bucket_key,
        is_video=(fields.text[marker] == ord("1")) & (marker_end - marker == 1),
    )
    good = np.flatnonzero(is_good)
    if len(good) < cheap.num_rows:
        cheap = cheap.take(pa.array(good))
    taken = chosen(cheap, wanted)
    texts = {name: fields.column(names.index(name), good[taken]) for name in ("url", *TEXT_COLUMNS)}
    batch = cheap if len(taken) == cheap.num_rows else cheap.take(pa.array(taken))
    return Rows(
        batch=whole_batch(batch, texts, is_encoded=True),
        num_malformed=chunk.num_rows - len(good),
        num_unwanted=len(good) - len(taken),
        is_encoded=True,
    )
