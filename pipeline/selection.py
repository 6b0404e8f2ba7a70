"""The select stage: rows of metadata -> tables of what to fetch, and a funnel of what was left out and why.

With OpenAI's list (variant `openai`) rows are joined with it first, and only survivors are decoded; pictures of one's
own are all taken. Work is cut into units of one shard here. Everything appears at once, when it is complete:
`WORK/selection` is a renamed folder, so a killed run leaves nothing that a later one could mistake for a result.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import metadata
from pipeline.captions import caption_fault, clean_caption, clean_text, decode_field
from pipeline.config import BuildConfig
from pipeline.errors import InputError, StoreError
from pipeline.progress import Progress
from pipeline.records import SELECT_REASONS, SELECTION_SCHEMA, Funnel, Reason, unit_name
from pipeline.subset_list import SubsetList, read_subset_list

log = logging.getLogger(__name__)

_FUNNEL = "funnel.json"
_PLAIN_FIELDS = ("user", "date_taken", "page_url", "license", "license_url")

Record = dict[str, Any]
"""One row of SELECTION_SCHEMA, on its way into a table."""


def part_path(work: Path, unit: int) -> Path:
    """The table with the rows of one unit of work."""
    return work / "selection" / f"part-{unit_name(unit)}.parquet"


def read_funnel(work: Path) -> Funnel | None:
    """The funnel of a finished selection, None when there is none."""
    found = _read_marker(work)
    if found is None:
        return None
    rejected = {Reason(name): count for name, count in found["rejected"].items()}
    return Funnel(rows=found["rows"], rejected=rejected, kept=found["kept"])


def num_units(work: Path) -> int:
    """How many units of work (parts, shards) a finished selection has."""
    found = _read_marker(work)
    if found is None:
        raise InputError(f"{work / 'selection'}: there is no finished selection; run --stage select first")
    return int(found["num_units"])


def _read_marker(work: Path) -> dict[str, Any] | None:
    path = work / "selection" / _FUNNEL
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); delete the folder and run the same command again") from error
    return found


class _Join(Protocol):
    """Decides which rows are wanted before any text is looked at."""

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[Reason, int]]:
        """The wanted rows with a column `key`, and how many of the others have which reason."""
        ...

    def check(self) -> None:
        """Raise or warn, after the last row, when list and metadata do not belong together."""
        ...


class _ListJoin:
    """Rows whose line number and photo id are in the list, each photo once, no videos."""

    def __init__(self, listed: SubsetList) -> None:
        self._listed = listed
        self._seen = np.zeros(len(listed.lines), np.bool_)
        self._num_mismatched = 0
        self._first_row: tuple[int, int] | None = None

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[Reason, int]]:
        lines = batch.column("line").to_numpy()
        photo_ids = batch.column("photo_id").to_numpy()
        if self._first_row is None and len(lines):
            self._first_row = (int(lines[0]), int(photo_ids[0]))
        entries, is_listed = self._listed.find(lines)
        is_same = is_listed & (self._listed.photo_ids[entries] == photo_ids)
        listed = np.flatnonzero(is_same)
        new = listed[self._is_new(self._listed.entries_of_photo(entries[listed]))]
        is_video = batch.column("is_video").to_numpy(zero_copy_only=False)[new]
        taken = batch.take(pa.array(new[~is_video]))
        num_listed = int(is_listed.sum())
        self._num_mismatched += num_listed - len(listed)
        return taken.append_column("key", taken.column("photo_id").cast(pa.string())), {
            Reason.NOT_IN_LIST: len(lines) - num_listed,
            Reason.LIST_MISMATCH: num_listed - len(listed),
            Reason.DUPLICATE_ROW: len(listed) - len(new),
            Reason.VIDEO: int(is_video.sum()),
        }

    def _is_new(self, photos: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these photos come for the first time, here and since the beginning."""
        is_first = np.zeros(len(photos), np.bool_)
        is_first[np.unique(photos, return_index=True)[1]] = True
        is_new: NDArray[np.bool_] = is_first & ~self._seen[photos]
        self._seen[photos] = True
        return is_new

    def check(self) -> None:
        url = self._listed.url
        num_found, num_listed = int(self._seen.sum()), len(self._seen)
        if num_found == 0:
            of_list = f"line {self._listed.lines[0]} with photo {self._listed.photo_ids[0]}"
            of_metadata = (
                "no well-formed row" if self._first_row is None else "line {} with photo {}".format(*self._first_row)
            )
            raise InputError(
                f"{url}: the list matches nothing in the metadata: it begins with {of_list}, the metadata with "
                f"{of_metadata} ({self._num_mismatched} rows have a listed line number but another photo id); "
                "are both of the same YFCC100M?"
            )
        if num_found < num_listed / 2:
            log.warning(
                "%s: only %d of %d listed rows are in the metadata; is a file missing?", url, num_found, num_listed
            )


class _KeyJoin:
    """All rows, each key once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[Reason, int]]:
        is_new = []
        for key in batch.column("key").to_pylist():
            is_new.append(key not in self._seen)
            self._seen.add(key)
        taken = batch.filter(pa.array(is_new, pa.bool_()))
        return taken, {Reason.DUPLICATE_ROW: batch.num_rows - taken.num_rows}

    def check(self) -> None:
        return None


def _plain(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", errors="replace")


def _records(batch: pa.RecordBatch, *, is_encoded: bool) -> Iterator[Record | Reason]:
    """Each row with cleaned captions, or the reason why its captions are no use."""
    clean: Callable[[str], str] = clean_caption if is_encoded else clean_text
    decode: Callable[[str], str] = decode_field if is_encoded else str
    for row in batch.to_pylist():
        title, description = clean(_plain(row["title"])), clean(_plain(row["description"]))
        if not title and not description:
            yield Reason.NO_CAPTION
            continue
        title_usable, description_usable = caption_fault(title) is None, caption_fault(description) is None
        if not title_usable and not description_usable:
            yield Reason.JUNK_CAPTION
            continue
        yield {
            "key": row["key"],
            "row": row["row"],
            "url": _plain(row["url"]),
            "title": title,
            "description": description,
            "title_usable": title_usable,
            "description_usable": description_usable,
            **{name: decode(_plain(row[name])) for name in _PLAIN_FIELDS},
        }


class _PartWriter:
    """Cuts records into parts of equal size and writes them to a folder."""

    def __init__(self, folder: Path, rows_per_part: int) -> None:
        self._folder, self._rows_per_part = folder, rows_per_part
        self._records: list[Record] = []
        self.num_parts = self.num_rows = 0

    def add(self, record: Record) -> None:
        self._records.append(record)
        self.num_rows += 1
        if len(self._records) == self._rows_per_part:
            self.flush()

    def flush(self) -> None:
        if not self._records:
            return
        table = pa.Table.from_pylist(self._records, schema=SELECTION_SCHEMA)
        with (self._folder / f"part-{unit_name(self.num_parts)}.parquet").open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            os.fsync(file.fileno())
        self.num_parts += 1
        self._records = []


def _pour(batches: Iterable[metadata.Rows], join: _Join, writer: _PartWriter, progress: Progress) -> Funnel:
    """Send all rows through the join and the caption rules into the writer."""
    rejected: Counter[Reason] = Counter(dict.fromkeys(SELECT_REASONS, 0))
    num_rows = 0
    for rows in batches:
        num_rows += rows.batch.num_rows + rows.num_malformed
        rejected[Reason.MALFORMED_ROW] += rows.num_malformed
        wanted, counts = join(rows.batch)
        rejected.update(counts)
        for record in _records(wanted, is_encoded=isinstance(join, _ListJoin)):
            if isinstance(record, Reason):
                rejected[record] += 1
            else:
                writer.add(record)
        rate = num_rows / max(progress.elapsed_s, 1e-9)
        progress.advance_to(rows.bytes_read, note=f"{num_rows:,} rows, {rate:,.0f} rows/s, {writer.num_rows:,} kept")
    writer.flush()
    return Funnel(rows=num_rows, rejected=dict(rejected), kept=writer.num_rows)


def _write_marker(folder: Path, funnel: Funnel, num_parts: int) -> None:
    marker = {
        "rows": funnel.rows,
        "kept": funnel.kept,
        "rejected": {str(reason): count for reason, count in funnel.rejected.items()},
        "num_units": num_parts,
    }
    with (folder / _FUNNEL).open("w", encoding="ascii") as file:
        file.write(json.dumps(marker, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def select(config: BuildConfig, work: Path) -> Funnel:
    """Write `WORK/selection` unless it is there, and return its funnel.

    A row is rejected for the first reason that holds, in the order of `records.Reason`.
    """
    finished = read_funnel(work)
    if finished is not None:
        return finished
    assert config.metadata, "the entry point names the embedded sample's files"
    num_bytes = metadata.total_bytes(config.metadata, source=config.source)
    join: _Join = _KeyJoin() if config.subset_list is None else _ListJoin(read_subset_list(config.subset_list))
    unfinished, final = work / "selection.part", work / "selection"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    writer = _PartWriter(unfinished, config.samples_per_shard)
    with Progress("select", unit="bytes", total=num_bytes) as progress:
        funnel = _pour(metadata.open_rows(config.metadata, source=config.source), join, writer, progress)
    join.check()
    if funnel.kept == 0:
        counts = ", ".join(f"{count} {reason}" for reason, count in funnel.rejected.items() if count)
        raise InputError(
            f"{', '.join(config.metadata)}: none of {funnel.rows} rows is left ({counts}); check the metadata's titles "
            "and descriptions"
        )
    _write_marker(unfinished, funnel, writer.num_parts)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(unfinished, final)
    return funnel
