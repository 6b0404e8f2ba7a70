"""Rows of YFCC100M's metadata from Parquet: as `ingest` writes it, or with the published names of columns.

Texts are percent-encoded as in the other forms. Where the file says so (column `malformed`), a row holds the place of
a malformed line, so that rows have the numbers they have in the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import store
from pipeline.errors import InputError
from pipeline.metadata import sqlite as metadata_sqlite
from pipeline.metadata.lines import parse_integers
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

MAGIC = b"PAR1"
INGEST_KEY = b"yfcc15m.ingest"
"""Name, in a Parquet file's own metadata, under which stands that and from what `ingest` made it."""
MARKER_NAME = "ingest.json"
"""Beside the parts that `ingest` has written, when all of them are there."""

_EXPECTED = "Parquet of YFCC100M's metadata, as --stage ingest writes it or with the published names of columns"
_ALIASES = {name: (name, published) for name, published in metadata_sqlite.NAMES.items()} | {
    "line": ("line",),
    "bucket_key": ("key", "bucket_key"),
    "malformed": ("malformed",),
}
_REQUIRED = ("photo_id", "url", "title", "description")


@contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        file = filesystem.open(path, "rb")
    with file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise InputError(f"{url}: the Parquet file is damaged ({error}); copy or write it again") from error


def _columns(url: str, schema: pa.Schema) -> dict[str, str]:
    """Our names of columns and how the file calls them; InputError when a needed one is missing."""
    found = {
        name: next(alias for alias in aliases if alias in schema.names)
        for name, aliases in _ALIASES.items()
        if set(aliases) & set(schema.names)
    }
    missing = [" or ".join(_ALIASES[name]) for name in _REQUIRED if name not in found]
    if missing:
        raise InputError(
            f"{url}: the table has no column {', '.join(missing)} (it has: {', '.join(schema.names)}); expected "
            f"{_EXPECTED}; for pictures of your own pass --dataset local"
        )
    return found


def ingested_form(url: str) -> str:
    """From which form `ingest` made the file, as it says itself; "" when somebody else made it."""
    with _opened(url) as file:
        note = (file.schema_arrow.metadata or {}).get(INGEST_KEY)
        _columns(url, file.schema_arrow)
    return str(json.loads(note)["form"]) if note else ""


def check_folder(folder: str, names: Sequence[str]) -> None:
    """Raise when `ingest` has begun to fill the folder and not finished, or a part is missing."""
    first = store.join(folder, names[0])
    if not ingested_form(first):
        return
    marker = store.join(folder, MARKER_NAME)
    if not store.exists(marker):
        raise InputError(f"{marker}: is missing, so --stage ingest has not finished there; run it again")
    expected = [part["name"] for part in json.loads(store.read_bytes(marker))["parts"]]
    if expected != list(names):
        differing = sorted(set(expected) ^ set(names))
        raise InputError(
            f"{folder}: the files are not those that {MARKER_NAME} names (differing: {', '.join(differing[:5])}); "
            "run --stage ingest again, into an empty folder"
        )


def parquet_chunks(url: str, *, first_row: int, bytes_before: int, num_bytes: int) -> Iterator[Chunk]:
    """All rows of a file, whole row groups at a time."""
    with _opened(url) as file:
        groups, total = file.metadata, file.metadata.num_rows
        if total == 0:
            raise InputError(f"{url}: the table has no rows; expected {_EXPECTED}")
        start = count = done = 0
        for group in range(groups.num_row_groups):
            count += groups.row_group(group).num_rows
            if count < CHUNK_ROWS and group + 1 < groups.num_row_groups:
                continue
            yield Chunk(
                url=url,
                form="parquet",
                first_row=first_row + done,
                num_rows=count,
                done_bytes=bytes_before + num_bytes * (done + count) // total,
                start=start,
                stop=group + 1,
            )
            start, done, count = group + 1, done + count, 0


def _array(table: pa.Table, name: str) -> pa.Array:
    array = table.column(name).combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def _bytes(url: str, table: pa.Table, name: str) -> pa.Array:
    """A column as bytes, missing values empty."""
    array = _array(table, name)
    try:
        return pc.fill_null(array.cast(pa.binary()), b"")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{url}: column {name} holds {array.type}; expected text ({error})") from error


def _numbers(url: str, table: pa.Table, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A column of numbers, stored as such or as text, and where there is one (elsewhere -1)."""
    array = _array(table, name)
    if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        numbers = pc.fill_null(array.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        return numbers, numbers >= 0
    numbers, is_number = parse_integers(_bytes(url, table, name))
    return np.where(is_number, numbers, -1), is_number


@dataclass(frozen=True, slots=True)
class _Cheap:
    batch: pa.RecordBatch
    good: NDArray[np.int64]


def _read_cheap(chunk: Chunk, file: pq.ParquetFile, columns: dict[str, str]) -> _Cheap:
    """The well-formed rows without their texts, and which rows of the chunk they are."""
    names = [name for name in ("line", "photo_id", "bucket_key", "marker", "malformed", "url") if name in columns]
    table = file.read_row_groups(range(chunk.start, chunk.stop), columns=[columns[name] for name in names])
    table = table.select([columns[name] for name in names]).rename_columns(names)
    photo_id, is_good = _numbers(chunk.url, table, "photo_id")
    url = _bytes(chunk.url, table, "url")
    is_web = pc.or_(pc.starts_with(url, "http://"), pc.starts_with(url, "https://"))
    is_good = is_good & is_web.to_numpy(zero_copy_only=False)
    if "malformed" in names:
        is_good = is_good & ~_array(table, "malformed").to_numpy(zero_copy_only=False).astype(np.bool_)
    line = None
    if "line" in names:
        line, is_line = _numbers(chunk.url, table, "line")
        # Parquet made from v1 or SQLite says -1.
        is_good = is_good & (is_line | (line == -1)) if pa.types.is_integer(table["line"].type) else is_good & is_line
    count = table.num_rows
    batch = cheap_batch(
        row=chunk.first_row + np.arange(count),
        line=line,
        photo_id=photo_id,
        bucket_key=_bytes(chunk.url, table, "bucket_key") if "bucket_key" in names else empty_texts(count, pa.binary()),
        is_video=_numbers(chunk.url, table, "marker")[0] == 1 if "marker" in names else None,
    )
    good = np.flatnonzero(is_good)
    return _Cheap(batch if len(good) == count else batch.take(pa.array(good)), good)


def read_parquet(chunk: Chunk, wanted: Wanted | None) -> Rows:
    """The rows of a chunk; texts are not read at all where no row is wanted."""
    with _opened(chunk.url) as file:
        columns = _columns(chunk.url, file.schema_arrow)
        cheap = _read_cheap(chunk, file, columns)
        taken = chosen(cheap.batch, wanted)
        texts = {}
        if len(taken):
            names = [name for name in ("url", *TEXT_COLUMNS) if name in columns]
            table = file.read_row_groups(range(chunk.start, chunk.stop), columns=[columns[name] for name in names])
            table = table.take(pa.array(cheap.good[taken]))
            texts = {name: _bytes(chunk.url, table, columns[name]) for name in names}
    return Rows(
        batch=whole_batch(cheap.batch.take(pa.array(taken)), texts, is_encoded=True),
        num_malformed=chunk.num_rows - len(cheap.good),
        num_unwanted=len(cheap.good) - len(taken),
        is_encoded=True,
    )
