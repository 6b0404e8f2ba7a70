"""How far a build is, told from its work folder and its output while it, or another process, may be at work.

Nothing is written and nothing waits for a lock. Of 1,500 units only names, small JSON files and one column of each
table of outcomes are read.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import YfccError
from pipeline.fetch.fetched import outcomes_path
from pipeline.fetch.timing import Timing, busy_spans, pictures_per_s, read_timing
from pipeline.lease import LEASE_NAME, STALE_S
from pipeline.manifest import MANIFEST_NAME, load_manifest
from pipeline.records import Funnel, Reason
from pipeline.report.charts import format_bytes, share
from pipeline.report.estimate_inputs import unit_numbers
from pipeline.report.work import read_comparisons
from pipeline.seal.seal import read_entry
from pipeline.selection.selection import num_units, read_funnel

_RECENT_UNITS = 50
"""Units from which the present rate is told: enough to even out, few enough to be the present."""
_DONE, _UNDER_WAY, _NOT_BEGUN = "✓", "…", "·"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """Units by what became of them, and what their shards hold."""

    shards: int
    empty: int
    missing: int
    """Their shard is noted as sealed and is not in the output."""
    samples: int
    num_bytes: int


def _reasons(work: Path, unit: int) -> Counter[str]:
    """Outcomes of a unit by reason, "" for good pictures; nothing when another process is just replacing the table."""
    try:
        # A dictionary of a few reasons, read in this thread: 0.3 ms a unit instead of 1.7.
        with pq.ParquetFile(outcomes_path(work, unit), read_dictionary=["reason"]) as file:
            column = file.read(columns=["reason"], use_threads=False)["reason"]
    except (OSError, pa.ArrowInvalid):
        return Counter()
    return Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()})


def _all_reasons(work: Path, units: Iterable[int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for unit in units:
        total.update(_reasons(work, unit))
    return total


def _sealed(config: BuildConfig, work: Path, units: Iterable[int]) -> _Sealed:
    present = set(store.list_names(config.output))
    shards = empty = missing = samples = num_bytes = 0
    for unit in units:
        entry = read_entry(work, unit)
        if entry is None:
            continue
        if entry.shard is None:
            empty += 1
        elif not {entry.shard.name, entry.shard.index} <= present:
            missing += 1
        else:
            shards += 1
            samples += entry.shard.num_samples
            num_bytes += entry.shard.num_bytes
    return _Sealed(shards=shards, empty=empty, missing=missing, samples=samples, num_bytes=num_bytes)


def _mark(done: int, total: int) -> str:
    return _DONE if done >= total else _UNDER_WAY if done else _NOT_BEGUN


def _duration(seconds: float) -> str:
    """40 -> "40 s", 5400 -> "1.5 h"."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _rate(timings: Sequence[Timing], rows_left: int) -> list[str]:
    """How fast downloads are, and when they will be done at the recent rate."""
    mean = pictures_per_s(timings)
    if mean is None:
        return []
    busy_s = sum(end - start for start, end in busy_spans(timings))
    num_bytes = sum(timing.num_bytes for timing in timings)
    recent = timings[-_RECENT_UNITS:]
    recent_s = sum(end - start for start, end in busy_spans(recent))
    said = f"{mean:,.1f} pictures/s and {format_bytes(num_bytes / busy_s)}/s over {_duration(busy_s)} of downloading"
    if len(recent) < len(timings):
        said += f", {pictures_per_s(recent) or 0:,.1f} pictures/s lately"
    lines = [_line("", "rate", said)]
    rows_per_s = sum(timing.rows for timing in recent) / recent_s if recent_s > 0 else 0.0
    if rows_left and rows_per_s:
        age = time.time() - timings[-1].ended_unix
        lines.append(
            _line("", "left", f"{_duration(rows_left / rows_per_s)} of downloading (last unit {_duration(age)} ago)")
        )
    return lines


def _line(mark: str, what: str, said: str) -> str:
    return f"{mark or ' '} {what:<10} {said}"


def _rejections(reasons: Counter[str]) -> list[str]:
    total = reasons.total()
    found = [(reason, reasons[reason]) for reason in Reason if reasons[reason]]
    lines = []
    if found:
        ranked = sorted(found, key=lambda item: -item[1])
        listed = ", ".join(f"{reason} {count:,} ({share(count, total)})" for reason, count in ranked)
        lines.append(_line("", "rejected", listed))
    healable = [(reason, count) for reason, count in found if reason.can_heal]
    if healable:
        count = sum(count for _, count in healable)
        lines.append(_line("", "can heal", f"{count:,} rows; once the build is finished: --retry-failed"))
    return lines


def _builder(config: BuildConfig) -> str | None:
    """Who has the output, as far as the note in it tells; None when nobody does."""
    url = store.join(config.output, LEASE_NAME)
    if not store.exists(url):
        return None
    try:
        note: dict[str, Any] = json.loads(store.read_bytes(url))
        host, pid = str(note["host"]), int(note["pid"])
        started, seen = float(note["started"]), float(note["seen"])
    except (YfccError, ValueError, KeyError, TypeError):
        return f"{url} cannot be read; somebody may be building"
    since = datetime.fromtimestamp(started).astimezone().isoformat(" ", "seconds")
    said = f"process {pid} of {note.get('user', 'somebody')} on {host}, since {since}"
    if host == socket.gethostname() and not _is_alive(pid):
        return f"{said}; it has ended"
    if not store.is_local(url) and time.time() - seen > STALE_S:
        return f"{said}; no sign of life for {_duration(time.time() - seen)}"
    return said


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _comparisons(work: Path) -> list[str]:
    try:
        found = read_comparisons(work)
    except YfccError as error:
        return [_line("", "compared", str(error))]
    return [
        _line("", "compared", f"{c.name}: precision {c.precision:.4f}, recall {c.recall:.4f}, Jaccard {c.jaccard:.4f}")
        for c in found
    ]


def _units(config: BuildConfig, work: Path, funnel: Funnel) -> list[str]:
    """Fetching, sealing, losses and rate."""
    total = num_units(work)
    fetched, noted = unit_numbers(work / "fetched", ".parquet"), unit_numbers(work / "sealed", ".json")
    waiting = len(fetched - noted)
    reasons = _all_reasons(work, sorted(fetched))
    sealed = _sealed(config, work, sorted(noted))
    said = f"{len(fetched):,} of {total:,} units"
    if reasons:
        said += f": {reasons['']:,} pictures of {reasons.total():,} rows ({share(reasons[''], reasons.total())})"
    lines = [_line(_mark(len(fetched), total), "fetch", said)]
    said = f"{sealed.shards + sealed.empty:,} of {total:,} units"
    details = [f"{sealed.shards:,} shards with {sealed.samples:,} samples, {format_bytes(sealed.num_bytes)}"]
    details += [f"{sealed.empty:,} without a good picture"] if sealed.empty else []
    details += [f"{waiting:,} fetched and waiting"] if waiting else []
    details += [f"{sealed.missing:,} MISSING in the output (the build makes them again)"] if sealed.missing else []
    lines.append(_line(_mark(sealed.shards + sealed.empty, total), "seal", f"{said}: {'; '.join(details)}"))
    return [*lines, *_rejections(reasons), *_rate(read_timing(work), funnel.kept - reasons.total())]


def format_status(config: BuildConfig, work: Path) -> str:
    """A few lines for people: each stage with a mark, then what is known of losses, speed and who is building."""
    funnel = read_funnel(work)
    lines = [f"work folder {work}"]
    if funnel is None:
        begun = work.is_dir() and any(path.name.startswith("selection") for path in work.iterdir())
        lines.append(_line(_UNDER_WAY if begun else _NOT_BEGUN, "select", "under way" if begun else "not begun"))
    else:
        portion = share(funnel.kept, funnel.rows)
        said = f"{funnel.kept:,} of {funnel.rows:,} rows ({portion}) in {num_units(work):,} units"
        lines += [_line(_DONE, "select", said), *_units(config, work, funnel)]
    if store.exists(store.join(config.output, MANIFEST_NAME)):
        manifest = load_manifest(config.output)
        said = f"{manifest.num_samples:,} samples in {len(manifest.shards):,} shards, sha256 {manifest.sha256}"
        lines.append(_line(_DONE, "manifest", said))
        has_report = store.exists(store.join(config.output, "report.html"))
        lines.append(
            _line(_DONE if has_report else _NOT_BEGUN, "report", "report.html" if has_report else "not written")
        )
    else:
        lines.append(_line(_NOT_BEGUN, "manifest", "not written: the data set is not finished"))
    if (builder := _builder(config)) is not None:
        lines.append(_line("", "builder", builder))
    return "\n".join([*lines, *_comparisons(work)])
