"""Rows of YFCC100M's metadata from the SQLite file of the public bucket (`yfcc100m_dataset.sql`, despite its name).

Table yfcc100m_dataset; photoid and marker are integers, texts are percent-encoded, there is no line number and no
key. It is read by ranges of rowids, whatever gaps they have, by any number of processes at once; nothing is written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

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

MAGIC = b"SQLite format 3\0"
TABLE = "yfcc100m_dataset"
NAMES = {
    "photo_id": "photoid",
    "user": "unickname",
    "date_taken": "datetaken",
    "title": "title",
    "description": "description",
    "page_url": "pageurl",
    "url": "downloadurl",
    "license": "licensename",
    "license_url": "licenseurl",
    "marker": "marker",
}
"""Our names of columns, and the published ones."""

_TEXTS = ("url", *TEXT_COLUMNS)
_MAX_ID = 10**18
_STEP = f"SELECT count(*), max(rowid) FROM (SELECT rowid FROM {TABLE} WHERE rowid > ? ORDER BY rowid LIMIT ?)"
_CHEAP = (
    f"SELECT rowid, CASE typeof(photoid) WHEN 'integer' THEN photoid ELSE -1 END, marker = 1, "
    f"ifnull(substr(downloadurl, 1, 8), '') FROM {TABLE} WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
)
_WANTED = "SELECT {} FROM {} WHERE rowid IN (SELECT value FROM json_each(?)) ORDER BY rowid".format(
    ", ".join(f"CAST(ifnull({NAMES[name]}, '') AS BLOB)" for name in _TEXTS), TABLE
)


@contextmanager
def _opened(url: str) -> Iterator[sqlite3.Connection]:
    """The database, for reading; what it cannot do becomes an InputError."""
    if not store.is_local(url):
        raise InputError(f"{url}: a SQLite file is read from a local disk only; copy it there first")
    path = Path(url.split("://", 1)[-1]).absolute()
    try:
        # Immutable: no locks and no journal are looked for, so a read-only folder will do.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.text_factory = lambda text: text.decode("utf-8", errors="replace")
            yield database
    except sqlite3.Error as error:
        raise InputError(f"{url}: the SQLite file cannot be read ({error}); download it again") from error


def _check(url: str, database: sqlite3.Connection) -> None:
    """Raise unless the table is there with all columns."""
    found = [name for _, name, *_ in database.execute(f"PRAGMA table_info({TABLE})")]
    if not found:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        raise InputError(
            f"{url}: there is no table {TABLE} in this SQLite file (it has: {', '.join(tables) or 'none'}); expected "
            "YFCC100M's metadata, yfcc100m_dataset.sql of the public bucket"
        )
    missing = [name for name in NAMES.values() if name not in found]
    if missing:
        raise InputError(
            f"{url}: table {TABLE} has no column {', '.join(missing)} (it has: {', '.join(found)}); expected "
            "YFCC100M's metadata, yfcc100m_dataset.sql of the public bucket"
        )


def sqlite_chunks(url: str, *, first_row: int, bytes_before: int, num_bytes: int) -> Iterator[Chunk]:
    """All rows of the table in the order of their rowids."""
    with _opened(url) as database:
        _check(url, database)
        lowest, highest = database.execute(f"SELECT min(rowid), max(rowid) FROM {TABLE}").fetchone()
        if lowest is None:
            raise InputError(f"{url}: table {TABLE} has no rows; expected YFCC100M's metadata")
        last = lowest - 1
        while last < highest:
            num_rows, stop = database.execute(_STEP, (last, CHUNK_ROWS)).fetchone()
            done = num_bytes * (stop - lowest + 1) // (highest - lowest + 1)
            yield Chunk(
                url=url,
                form="sqlite",
                first_row=first_row,
                num_rows=num_rows,
                done_bytes=bytes_before + done,
                start=last + 1,
                stop=stop + 1,
            )
            first_row, last = first_row + num_rows, stop


def read_sqlite(chunk: Chunk, wanted: Wanted | None) -> Rows:
    """The rows of a range of rowids."""
    with _opened(chunk.url) as database:
        found = database.execute(_CHEAP, (chunk.start - 1, chunk.stop - 1)).fetchall()
        if len(found) != chunk.num_rows:
            raise InputError(f"{chunk.url}: changed while it was read; start again when it is complete")
        rowids, photo_ids, markers, urls = zip(*found, strict=True)
        photo_id = np.array([min(number, _MAX_ID) for number in photo_ids], np.int64)
        is_web = np.array([str(url).startswith(("http://", "https://")) for url in urls])
        good = np.flatnonzero(is_web & (photo_id >= 0) & (photo_id < _MAX_ID))
        cheap = cheap_batch(
            row=chunk.first_row + good,
            line=None,
            photo_id=photo_id[good],
            bucket_key=empty_texts(len(good), pa.binary()),
            is_video=np.array([marker == 1 for marker in markers], np.bool_)[good],
        )
        taken = chosen(cheap, wanted)
        ids = json.dumps([rowids[index] for index in good[taken].tolist()])
        columns = list(zip(*database.execute(_WANTED, (ids,)), strict=True)) or [()] * len(_TEXTS)
    texts = {name: pa.array(column, pa.binary()) for name, column in zip(_TEXTS, columns, strict=True)}
    return Rows(
        batch=whole_batch(cheap.take(pa.array(taken)), texts, is_encoded=True),
        num_malformed=chunk.num_rows - len(good),
        num_unwanted=len(good) - len(taken),
        is_encoded=True,
    )
