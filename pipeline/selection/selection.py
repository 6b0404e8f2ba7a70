"""The select stage: rows of metadata -> tables of what to fetch, and a funnel of what was left out and why.

Worker processes judge chunks of metadata (`variants`); here their verdicts come together, in the metadata's order:
repetitions are taken out, rows are counted, and what is kept is cut into parts, units of one shard. So the result is
the same for any number of processes. Everything appears at once, when it is complete: `WORK/selection` is a renamed
folder, so a killed run leaves nothing that a later one could mistake for a result.

A row is rejected for the first reason that holds, in the order of `records.Reason`. One exception: in variant `english`
a row is a repetition only of a row that was kept, and that is looked at last.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.captions.verdicts import CODE_OF, KEPT
from pipeline.config import BuildConfig
from pipeline.errors import InputError, StoreError
from pipeline.executors.worker_pool import map_in_order
from pipeline.metadata import metadata
from pipeline.progress import Progress
from pipeline.records import SELECT_REASONS, SELECTION_SCHEMA, Funnel, Reason, unit_name
from pipeline.selection import score
from pipeline.selection.id_set import IdSet
from pipeline.selection.listed_captions import read_listed_captions
from pipeline.selection.subset_list import Join, close_files, read_subset_list
from pipeline.selection.variants import Judge, Judged, judge_for

log = logging.getLogger(__name__)

MAX_PROCESSES = 4
"""Each takes up to 300 MB, with its packages and language models: four, and the driver, were seen to need 950 MB. They
get through 100 M rows in minutes, so more would only cost memory."""

_MISMATCHES_SHOWN = 5
_CHUNKS_LOOKED_AT = 64
_LISTS = "listed.part-"
"""Beginning of the name of the folder, in the work folder, that holds the lists while rows are joined with them."""

_FUNNEL = "funnel.json"


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


class _PartWriter:
    """Cuts rows into parts of equal size and writes them to a folder."""

    def __init__(self, folder: Path, rows_per_part: int) -> None:
        self._folder, self._rows_per_part = folder, rows_per_part
        self._batches: list[pa.RecordBatch] = []
        self._num_waiting = self.num_parts = self.num_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.num_rows += batch.num_rows
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, self._rows_per_part - self._num_waiting)
            self._batches.append(piece)
            self._num_waiting += piece.num_rows
            start += piece.num_rows
            if self._num_waiting == self._rows_per_part:
                self.flush()

    def flush(self) -> None:
        if not self._batches:
            return
        # One chunk, so that the bytes do not depend on how the rows came.
        table = pa.Table.from_batches(self._batches, SELECTION_SCHEMA).combine_chunks()
        with (self._folder / f"part-{unit_name(self.num_parts)}.parquet").open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            os.fsync(file.fileno())
        self.num_parts += 1
        self._batches, self._num_waiting = [], 0


@dataclass(slots=True)
class _Tally:
    """All verdicts so far."""

    rejected: Counter[Reason] = field(default_factory=lambda: Counter(dict.fromkeys(SELECT_REASONS, 0)))
    num_rows: int = 0
    seen: IdSet = field(default_factory=IdSet)
    """Photo ids (or keys) of the rows the list names; in `english`, of the kept ones."""
    num_mismatches_shown: int = 0
    first: tuple[int, int] | None = None
    """Line and photo id of the first well-formed row."""
    lost: list[Counter[str]] = field(default_factory=list)
    """By scored list, why rows of its photos were rejected."""

    def add(self, judged: Judged) -> pa.RecordBatch:
        """Count a chunk's verdicts; its kept rows without repetitions."""
        self.num_rows += judged.num_rows
        self.first = self.first or judged.first
        self.rejected += judged.counts
        is_new = self.seen.add(judged.ids)
        self.rejected[Reason.DUPLICATE_ROW] += int((~is_new).sum())
        for reason, code in CODE_OF.items():
            self.rejected[reason] += int((judged.codes[is_new] == code).sum())
        self._warn(judged.mismatches)
        if not self.lost:
            self.lost = [Counter() for _ in judged.lost]
        for counter, counts in zip(self.lost, judged.lost, strict=True):
            counter.update({str(reason): int(counts[code]) for reason, code in CODE_OF.items()})
        if is_new.all():
            return judged.kept
        return judged.kept.filter(pa.array(is_new[judged.codes == KEPT]))

    def _warn(self, mismatches: Sequence[str]) -> None:
        for text in mismatches[: _MISMATCHES_SHOWN - self.num_mismatches_shown]:
            log.warning("list and metadata contradict each other: %s", text)
            self.num_mismatches_shown += 1

    def funnel(self, kept: int) -> Funnel:
        return Funnel(
            rows=self.num_rows, rejected={reason: self.rejected[reason] for reason in SELECT_REASONS}, kept=kept
        )


def _decide_join(config: BuildConfig, chunks: Iterator[metadata.Chunk]) -> tuple[Join, Iterator[metadata.Chunk]]:
    """The column to join OpenAI's list by, and the chunks, of which the first few were looked at."""
    if config.join_by != "auto":
        return config.join_by, chunks
    looked_at: list[metadata.Chunk] = []
    for chunk in itertools.islice(chunks, _CHUNKS_LOOKED_AT):
        looked_at.append(chunk)
        lines: list[int] = []

        def note(cheap: pa.RecordBatch, lines: list[int] = lines) -> NDArray[np.bool_]:
            lines.extend(cheap.column("line").slice(0, 1).to_pylist())
            return np.zeros(cheap.num_rows, np.bool_)

        metadata.read_chunk(chunk, note)
        if lines:
            return "line" if lines[0] >= 0 else "photo_id", itertools.chain(looked_at, chunks)
    return "line", itertools.chain(looked_at, chunks)


def _read_list(
    config: BuildConfig, judge: Judge, chunks: Iterator[metadata.Chunk], folder: Path
) -> tuple[Judge, Iterator[metadata.Chunk]]:
    """The judge with the variant's list, if it joins one, and the chunks."""
    if config.subset_list is None or not config.metadata:
        return judge, chunks
    if config.chosen_variant == "declip":
        captions = read_listed_captions(config.subset_list, folder / "captions")
        log.info("%s: captions of %s photos, joined by photo id", config.subset_list, f"{captions.num_rows:,}")
        return replace(judge, captions=captions), chunks
    join, chunks = _decide_join(config, chunks)
    subset = read_subset_list(config.subset_list, folder / "subset", join=join)
    log.info("%s: %s rows, joined by %s", config.subset_list, f"{subset.num_rows:,}", join.replace("_", " "))
    return replace(judge, subset=subset), chunks


def _pour(
    chunks: Iterable[metadata.Chunk], judge: Judge, writer: _PartWriter, *, processes: int, num_bytes: int
) -> _Tally:
    """Have all chunks judged and send what is kept into the writer."""
    tally = _Tally()
    with (
        Progress("select", unit="bytes", total=num_bytes) as progress,
        closing(map_in_order(judge, chunks, processes=processes)) as verdicts,
    ):
        for judged in verdicts:
            writer.add(tally.add(judged))
            rate = tally.num_rows / max(progress.elapsed_s, 1e-9)
            note = f"{tally.num_rows:,} rows, {rate:,.0f} rows/s, {writer.num_rows:,} kept"
            progress.advance_to(judged.done_bytes, note=note)
        writer.flush()
    return tally


def _check_list(judge: Judge, tally: _Tally) -> None:
    """Raise or warn when list and metadata do not belong together."""
    listed = judge.subset or judge.captions
    if listed is None:
        return
    num_found = len(tally.seen)
    if num_found == 0:
        of_metadata = "no well-formed row" if tally.first is None else _line_and_photo(*tally.first)
        of_list = f"photo {listed.photo_ids[0]}"
        if judge.subset is not None:
            of_list = _line_and_photo(judge.subset.column("line")[0], listed.photo_ids[0])
        raise InputError(
            f"{listed.url}: the list matches nothing in the metadata: it begins with {of_list}, the metadata with "
            f"{of_metadata} ({tally.rejected[Reason.LIST_MISMATCH]} rows have a listed {_joined_by(judge)} but another "
            "photo id, line number or key); are both of the same YFCC100M?"
        )
    if num_found < listed.num_rows / 2:
        log.warning(
            "%s: only %d of %d listed rows are in the metadata; is a file missing?",
            listed.url,
            num_found,
            listed.num_rows,
        )


def _joined_by(judge: Judge) -> str:
    return "photo id" if judge.subset is None else judge.subset.join.replace("_", " ")


def _line_and_photo(line: int, photo_id: int) -> str:
    return f"photo {photo_id}" if line < 0 else f"line {line} with photo {photo_id}"


@contextmanager
def _lists_folder(work: Path) -> Iterator[Path]:
    """A folder for the lists, deleted afterwards, as are those that killed runs left."""
    for abandoned in work.glob(f"{_LISTS}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_LISTS, dir=work))
    try:
        yield folder
    finally:
        close_files()
        shutil.rmtree(folder, ignore_errors=True)


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
    """Write `WORK/selection` unless it is there, and return its funnel; compare it with `config.also_score`."""
    funnel, lost = read_funnel(work), dict[str, Counter[str]]()
    if funnel is None:
        with _lists_folder(work) as lists:
            funnel, lost = _select(config, work, lists)
    if config.also_score:
        score.write_scores(work / "selection", config.also_score, lost)
    return funnel


def _select(config: BuildConfig, work: Path, lists: Path) -> tuple[Funnel, dict[str, Counter[str]]]:
    """Write `WORK/selection`; its funnel, and by scored list why rows were lost."""
    num_bytes = metadata.total_bytes(config)
    scored = _read_scored(config, lists)
    unfinished, final = work / "selection.part", work / "selection"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    writer = _PartWriter(unfinished, config.samples_per_shard)
    judge, chunks = _read_list(config, judge_for(config, scored=scored), metadata.open_chunks(config), lists)
    processes = min(config.processes, MAX_PROCESSES)
    tally = _pour(chunks, judge, writer, processes=processes, num_bytes=num_bytes)
    _check_list(judge, tally)
    funnel = tally.funnel(writer.num_rows)
    if funnel.kept == 0:
        counts = ", ".join(f"{count} {reason}" for reason, count in funnel.rejected.items() if count)
        raise InputError(
            f"{', '.join(config.metadata or filter(None, [config.subset_list]))}: none of {funnel.rows} rows is left "
            f"({counts}); check the metadata's titles and descriptions"
        )
    _write_marker(unfinished, funnel, writer.num_parts)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(unfinished, final)
    return funnel, dict(zip(config.also_score, tally.lost, strict=False))


def _read_scored(config: BuildConfig, lists: Path) -> tuple[Path, ...]:
    """The ids of what the selection will be scored by, as files; read first, so that a wrong name costs no hours."""
    paths = []
    for number, url in enumerate(config.also_score):
        paths.append(lists / f"scored-{number}.npy")
        np.save(paths[-1], score.read_ids(url))
    return tuple(paths)
