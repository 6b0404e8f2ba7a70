"""Retry: ask once more for pictures that failed in a way that can heal; seal anew only the shards that gained some.

In: a sealed data set and the work folder of its build. Out: the outcomes with what was found this time, and, where
pictures came, the same shard with more samples. A unit's old pictures are taken from its sealed shard: the fetched tar
is written once more with them at their old places and the gained ones behind, so that it fits the outcomes before
the retry as well as those after. WORK/retry notes how far it is. Killed anywhere, the build seals what waits, and
the same command goes on where it was; the manifest is removed before the first shard changes and written last.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import InputError, ShardError
from pipeline.fetch.duplicates import Duplicates
from pipeline.fetch.fetch import fetch_again
from pipeline.fetch.fetched import (
    again_path,
    again_tar,
    fetched_tar,
    outcomes_path,
    read_again,
    read_outcomes,
    sync,
    write_outcomes,
)
from pipeline.manifest import MANIFEST_NAME, Manifest, read_index
from pipeline.records import OUTCOME_SCHEMA, Reason, unit_name
from pipeline.seal.seal import finish, local_part, read_entry, seal_unit
from pipeline.seal.shard import BLOCK_BYTES, header, padded
from pipeline.seal.shard_reader import PictureFile, read_spans
from pipeline.selection.selection import num_units, read_funnel
from pipeline.store_faults import translated

log = logging.getLogger(__name__)

_UNITS_AT_ONCE = 64
"""Units asked for together; they are merged in ascending order, so that duplicates do not depend on arrival."""

Row = dict[str, Any]
"""One row of OUTCOME_SCHEMA, on its way from one table to another."""


@dataclass(frozen=True, slots=True)
class _Notes:
    """What a retry remembers: WORK/retry/NNNNN.parquet are outcomes to be put in place, NNNNN.done says they are."""

    folder: Path

    def merged(self, unit: int) -> Path:
        return self.folder / f"{unit_name(unit)}.parquet"

    def done(self, unit: int) -> Path:
        return self.folder / f"{unit_name(unit)}.done"


def remove_again(work: Path, unit: int) -> None:
    """Remove what asking once more left, the table first: where it is, the tar is whole."""
    again_path(work, unit).unlink(missing_ok=True)
    again_tar(work, unit).unlink(missing_ok=True)


def _wanted(work: Path, units: Sequence[int]) -> dict[int, list[int]]:
    """Positions of the rows of these units whose reason can heal."""
    healable = {str(reason) for reason in Reason if reason.can_heal}
    wanted = {}
    for unit in units:
        reasons = read_outcomes(work, unit)["reason"].to_pylist()
        if positions := [position for position, reason in enumerate(reasons) if reason in healable]:
            wanted[unit] = positions
    return wanted


def _merge(work: Path, unit: int, positions: Sequence[int], duplicates: Duplicates) -> pa.Table:
    """The unit's outcomes with this time's answers; gained pictures are placed behind the old ones."""
    rows: list[Row] = read_outcomes(work, unit).to_pylist()
    answers: list[Row] = read_again(work, unit).to_pylist()
    for position, answer in zip(positions, answers, strict=True):
        if answer["key"] != rows[position]["key"]:
            raise ShardError(
                f"{again_path(work, unit)}: is not about the rows that were asked for; delete it, run again"
            )
        rows[position] = answer | {"attempts": (rows[position]["attempts"] or []) + (answer["attempts"] or [])}
    gained = [position for position in positions if not rows[position]["reason"]]
    marked = duplicates.mark_table(unit, pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA), gained=gained)
    rows = marked.to_pylist()
    late = set(gained)
    old = [row for position, row in enumerate(rows) if not row["reason"] and position not in late]
    end = max((row["offset"] + padded(row["num_bytes"]) for row in old), default=0)
    for position in gained:
        if not rows[position]["reason"]:
            rows[position]["offset"] = end + BLOCK_BYTES
            end += BLOCK_BYTES + padded(rows[position]["num_bytes"])
    return pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)


def _write_tar(config: BuildConfig, work: Path, unit: int, old: list[Row], gained: list[Row]) -> None:
    """Write the unit's fetched tar: old pictures from its shard, gained ones from what came this time."""
    came = {row["key"]: row for row in read_again(work, unit).to_pylist()}
    with local_part(work / "retry", f"{unit_name(unit)}.tar") as part:
        with translated(str(part), "write"), part.open("wb") as file:

            def put(row: Row, picture: bytes) -> None:
                file.seek(row["offset"] - BLOCK_BYTES)
                file.write(header(row["member"], len(picture)) + picture)

            for row, picture in zip(old, _old_pictures(config, work, unit, old), strict=True):
                put(row, picture)
            again = PictureFile(again_tar(work, unit), f"delete {work / 'retry'} and run the build again")
            try:
                for row in gained:
                    put(row, again.read(row["key"], came[row["key"]]["offset"], row["num_bytes"], row["sha256"]))
            finally:
                again.close()
            file.seek(0, os.SEEK_END)
            file.write(bytes(-file.tell() % BLOCK_BYTES + 2 * BLOCK_BYTES))
            sync(file)
        os.replace(part, fetched_tar(work, unit))


def _old_pictures(config: BuildConfig, work: Path, unit: int, old: Sequence[Row]) -> Iterator[bytes]:
    """The pictures of `old`, by key, from the unit's sealed shard, each compared with its digest."""
    entry = read_entry(work, unit)
    if entry is None or entry.shard is None:
        if old:
            raise ShardError(f"{work}: unit {unit} is not sealed; run the build before --retry-failed")
        return
    shard, url = entry.shard, store.join(config.output, entry.shard.name)
    index = read_index(config.output, shard)
    if index.keys.to_pylist() != [row["key"] for row in old]:
        raise ShardError(
            f"{url}: its samples are not those {outcomes_path(work, unit)} names; run --stage repair first"
        )
    spans = zip(index.image_offset.tolist(), index.image_size.tolist(), strict=True)
    for row, picture in zip(old, read_spans(url, shard.num_bytes, spans), strict=True):
        if hashlib.sha256(picture).hexdigest() != row["sha256"]:
            raise ShardError(f"{url}: the picture of key {row['key']} is damaged; run --stage repair first")
        yield picture


def _apply(config: BuildConfig, work: Path, unit: int, notes: _Notes) -> int:
    """Put merged outcomes in place, with the pictures they name; returns how many were gained."""
    merged = pq.read_table(notes.merged(unit), schema=OUTCOME_SCHEMA)
    now, later = read_outcomes(work, unit).to_pylist(), merged.to_pylist()
    old = sorted((row for row in now if not row["reason"]), key=lambda row: str(row["key"]))
    gained = [after for before, after in zip(now, later, strict=True) if before["reason"] and not after["reason"]]
    if gained:
        # From here on the manifest would promise what a shard no longer is.
        store.delete(store.join(config.output, MANIFEST_NAME))
        _write_tar(config, work, unit, old, gained)
    write_outcomes(work, unit, merged)
    os.replace(notes.merged(unit), notes.done(unit))
    return len(gained)


def _note(notes: _Notes, unit: int, merged: pa.Table) -> None:
    with local_part(notes.folder, notes.merged(unit).name) as part:
        with translated(str(part), "write"):
            pq.write_table(merged, part)
        os.replace(part, notes.merged(unit))


def _finish_unit(config: BuildConfig, work: Path, unit: int, notes: _Notes) -> int:
    """Put a unit's merged outcomes in place and seal it anew when it gained pictures; returns how many."""
    num_gained = _apply(config, work, unit, notes)
    remove_again(work, unit)
    seal_unit(config, work, unit)
    return num_gained


def _begin(config: BuildConfig, work: Path, notes: _Notes) -> list[int]:
    """The units that are still to be asked for: all, or those a killed retry had not come to."""
    units = range(num_units(work))
    for unit in units:
        if fetched_tar(work, unit).exists():  # killed before it was sealed anew
            seal_unit(config, work, unit)
    finished = [unit for unit in units if notes.done(unit).exists()]
    if notes.folder.exists():
        log.info("retry: going on with one that was ended; %d of %d units are done", len(finished), len(units))
    # What came for an earlier question must not pass for the answer to this one.
    for unit in finished if notes.folder.exists() else units:
        remove_again(work, unit)
    notes.folder.mkdir(exist_ok=True)
    return sorted(set(units) - set(finished))


def retry_failed(config: BuildConfig, work: Path, *, proxy: str | None, data_name: str | None = None) -> Manifest:
    """Ask once more for what can heal in a sealed build; returns the manifest with what was gained.

    Shards that gain nothing keep their bytes. `proxy` and `data_name` are those of the embedded sample's build.
    """
    funnel = read_funnel(work)
    if funnel is None:
        raise InputError(f"{work}: the select stage has not finished; run the build before --retry-failed")
    notes = _Notes(work / "retry")
    waiting = _begin(config, work, notes)
    merged = [unit for unit in waiting if notes.merged(unit).exists()]
    num_gained = sum(_finish_unit(config, work, unit, notes) for unit in merged)
    wanted = _wanted(work, sorted(set(waiting) - set(merged)))
    num_asked = sum(map(len, wanted.values()))
    log.info("retry: asking once more for %s pictures of %s shards", f"{num_asked:,}", f"{len(wanted):,}")
    duplicates = Duplicates(config, work)
    units = list(wanted)
    for first in range(0, len(units), _UNITS_AT_ONCE):
        group = units[first : first + _UNITS_AT_ONCE]
        for _ in fetch_again(config, work, {unit: wanted[unit] for unit in group}, proxy=proxy):
            pass
        for unit in group:
            _note(notes, unit, _merge(work, unit, wanted[unit], duplicates))
            num_gained += _finish_unit(config, work, unit, notes)
    manifest = finish(config, work, funnel, data_name=data_name)
    shutil.rmtree(notes.folder)
    log.info("retry: %s pictures gained", f"{num_gained:,}")
    return manifest
