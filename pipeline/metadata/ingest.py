"""The ingest stage: YFCC100M's metadata in any form -> Parquet that later selections read many times faster.

Comes in: the files of --metadata. Goes out: OUTPUT/part-NNNNN.parquet (zstd, texts percent-encoded as they were), and
last ingest.json, without which the folder is not finished. Malformed lines keep their places, so that a selection from
the parts has the row numbers and the funnel of one from the text. The same metadata gives the same bytes, whatever the
number of processors; a killed ingest begins anew.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError
from pipeline.lease import LEASE_NAME
from pipeline.metadata import metadata
from pipeline.metadata.parquet import INGEST_KEY, MARKER_NAME
from pipeline.metadata.rows import TEXT_COLUMNS, Chunk
from pipeline.progress import Progress

log = logging.getLogger(__name__)

_In = TypeVar("_In")
_Out = TypeVar("_Out")

PART_ROWS = 500_000
GROUP_ROWS = 50_000
"""Rows of a row group, which is what a selection reads at a time."""

_VERSION = 1
_PART = re.compile(r"part-\d{5,}\.parquet(?:\.part-.*)?$")
_WRITERS = 2
"""Parts being packed at the same time; each takes the memory of its rows, some 200 MB."""
_SCHEMA = pa.schema(
    [
        ("line", pa.int64()),  # -1 where the metadata has none (v1, SQLite)
        ("photo_id", pa.int64()),  # -1 where malformed
        ("key", pa.binary()),  # name in the public bucket; empty where the metadata has none
        ("marker", pa.int8()),  # 0 photo, 1 video
        ("malformed", pa.bool_()),  # keeps the place of a line that cannot be read; the rest is empty
        ("url", pa.binary()),
        *((name, pa.binary()) for name in TEXT_COLUMNS),
    ]
)
_IN_GAPS = {"line": -1, "photo_id": -1, "marker": 0, "malformed": True}
_FEW_VALUES = ["license", "license_url"]


def _with_gaps(chunk: Chunk) -> tuple[int, pa.Table, int]:
    """How far a chunk reaches in bytes, all its positions, malformed ones empty, and how many those are."""
    rows = metadata.read_chunk(chunk)
    batch = rows.batch
    columns = {
        "line": batch.column("line"),
        "photo_id": batch.column("photo_id"),
        "key": batch.column("bucket_key"),
        "marker": batch.column("is_video").cast(pa.int8()),
        "malformed": pa.array(np.zeros(batch.num_rows, np.bool_)),
        **{name: batch.column(name) for name in ("url", *TEXT_COLUMNS)},
    }
    if rows.num_malformed:
        index = np.full(chunk.num_rows, -1)
        index[batch.column("row").to_numpy() - chunk.first_row] = np.arange(batch.num_rows)
        places = pa.array(index, mask=index < 0)
        columns = {name: column.take(places).fill_null(_IN_GAPS.get(name, b"")) for name, column in columns.items()}
    return chunk.done_bytes, pa.table([columns[name] for name in _SCHEMA.names], schema=_SCHEMA), rows.num_malformed


def _packed(table: pa.Table, form: str) -> bytes:
    """A part as it is stored."""
    note = json.dumps({"version": _VERSION, "form": form}, sort_keys=True)
    sink = io.BytesIO()
    options = {
        "compression": "zstd",
        "use_dictionary": _FEW_VALUES,
        "column_encoding": {"line": "DELTA_BINARY_PACKED"},
        "write_statistics": False,
    }
    with pq.ParquetWriter(sink, _SCHEMA.with_metadata({INGEST_KEY: note}), **options) as writer:
        for start in range(0, table.num_rows, GROUP_ROWS):
            # Made one piece: where pages end would else depend on how the rows came.
            writer.write_table(table.slice(start, GROUP_ROWS).combine_chunks(), row_group_size=GROUP_ROWS)
    return sink.getvalue()


def _parts(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, PART_ROWS at a time."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        while count + table.num_rows >= PART_ROWS:
            cut = PART_ROWS - count
            yield pa.concat_tables([*pending, table.slice(0, cut)])
            pending, count, table = [], 0, table.slice(cut)
        pending.append(table)
        count += table.num_rows
    if count:
        yield pa.concat_tables(pending)


def _in_order(
    function: Callable[[_In], _Out], values: Iterable[_In], pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[_Out]:
    """What the function makes of each value, in their order; `ahead` of them at most are in the making."""
    waiting: deque[Future[_Out]] = deque()
    try:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _sources(config: BuildConfig) -> list[dict[str, Any]]:
    """What is ingested: base names, so that a copy elsewhere counts as the same, and sizes."""
    return [{"name": url.rstrip("/").rpartition("/")[2], "bytes": store.size(url)} for url in metadata.files(config)]


def _names(config: BuildConfig) -> list[str]:
    """What the output holds, but the note of who writes there."""
    return [name for name in store.list_names(config.output) if name != LEASE_NAME]


def _is_done(config: BuildConfig, sources: list[dict[str, Any]]) -> bool:
    """Whether the output holds this metadata already; ConfigError when it holds something else."""
    url = store.join(config.output, MARKER_NAME)
    names = _names(config)
    if MARKER_NAME in names:
        if json.loads(store.read_bytes(url))["sources"] == sources:
            return True
        raise ConfigError(f"{url}: other metadata was ingested here; pass another --output, or delete this folder")
    others = [name for name in names if not _PART.match(name)]
    if others:
        raise ConfigError(
            f"{config.output}: holds other files ({', '.join(others[:3])}); --stage ingest needs a folder of its own"
        )
    return False


class _Ingest:
    """Reads chunks and writes parts, counting."""

    def __init__(self, config: BuildConfig, form: str, progress: Progress) -> None:
        self._config, self._form, self._progress = config, form, progress
        self.num_rows = self.num_malformed = self._num_parts = 0

    def _tables(self, pool: ThreadPoolExecutor) -> Iterator[pa.Table]:
        ahead = self._config.processes + 1
        with closing(metadata.open_chunks(self._config)) as chunks:
            for done_bytes, table, num_malformed in _in_order(_with_gaps, chunks, pool, ahead=ahead):
                self.num_rows += table.num_rows
                self.num_malformed += num_malformed
                rate = self.num_rows / max(self._progress.elapsed_s, 1e-9)
                self._progress.advance_to(done_bytes, note=f"{self.num_rows:,} rows, {rate:,.0f} rows/s")
                yield table

    def _numbered(self, tables: Iterator[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
        for number, table in enumerate(_parts(tables)):
            yield f"part-{number:05d}.parquet", table

    def _write(self, part: tuple[str, pa.Table]) -> dict[str, Any]:
        name, table = part
        data = _packed(table, self._form)
        store.write_bytes(store.join(self._config.output, name), data)
        return {"name": name, "rows": table.num_rows, "bytes": len(data)}

    def run(self) -> list[dict[str, Any]]:
        """All parts, as the marker describes them."""
        with ThreadPoolExecutor(self._config.processes) as readers, ThreadPoolExecutor(_WRITERS) as writers:
            tables = self._tables(readers)
            return list(_in_order(self._write, self._numbered(tables), writers, ahead=_WRITERS))


def ingest(config: BuildConfig) -> None:
    """Write `config.output` unless it is finished.

    Threads do, not processes: unpacking, parsing and packing all let other threads run.
    """
    sources = _sources(config)
    if _is_done(config, sources):
        log.info("ingest: %s is finished already", config.output)
        return
    form = metadata.form(config)
    with Progress("ingest", unit="bytes", total=metadata.total_bytes(config)) as progress:
        work = _Ingest(config, form, progress)
        parts = work.run()
    for name in set(_names(config)) - {part["name"] for part in parts}:
        store.delete(store.join(config.output, name))  # of an earlier, longer attempt
    marker = {
        "version": _VERSION,
        "form": form,
        "rows": work.num_rows,
        "malformed": work.num_malformed,
        "columns": _SCHEMA.names,
        "sources": sources,
        "parts": parts,
    }
    data = json.dumps(marker, indent=1, sort_keys=True) + "\n"
    store.write_bytes(store.join(config.output, MARKER_NAME), data.encode())
    log.info("ingest: %s rows in %d files; pass --metadata %s", f"{work.num_rows:,}", len(parts), config.output)
