"""What a build would read, download, store and cost, before it is done: the table of --dry-run.

In come the settings, sizes of the inputs and whatever an earlier run left in the work folder; out goes a text. Nothing
is written and no picture is downloaded. Every number says whether it is exact, measured, or assumed, and from what.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import BuildConfig
from pipeline.fetch.fetch import ROWS_PER_CALL, UNITS_PER_PROCESS
from pipeline.fetch.timing import pictures_per_s
from pipeline.metadata.row_counts import Count
from pipeline.report.charts import format_bytes
from pipeline.report.estimate_inputs import Inputs, gather_inputs

PICTURES_PER_S_AND_PROCESS = 50.0
"""Assumed where nothing was measured."""
PICTURE_BYTES = 120_000
"""Flickr's 500-pixel size, assumed where nothing was measured."""
SAMPLE_PICTURE_BYTES = 21_000
"""Of the embedded sample."""
LOST_SHARES = {"url": 0.02, "bucket": 0.0003, "zip": 0.0, "local": 0.0, "list": 0.2}
"""Pictures that do not come: Flickr's as reported in 2021, the public bucket's; a guess for other Web lists."""
RETRIED_SHARE = 0.02
"""Requests that are made twice, assumed."""
MEASURED_FROM_ROWS = 1000
"""Rows fetched from which their rates are believed."""

# A sample's tar headers, its picture's padding (256 on average), caption (one block) and JSON (two blocks).
_TAR_OVERHEAD_BYTES = 3 * 512 + 256 + 512 + 1024
_INDEX_BYTES_PER_SAMPLE = 300
_SELECTION_BYTES_PER_ROW = 250
_OBJECTS_PER_SHARD, _OTHER_OBJECTS = 3, 4  # tar, index, offsets; manifest, sizes, card, report


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table."""

    what: str
    whole: str
    left: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """What one picture costs, and from what that is known."""

    lost: float
    lost_how: str
    picture_bytes: float
    picture_how: str
    stored_bytes: float
    stored_how: str
    pictures_per_s: float
    speed_how: str


def _sources(config: BuildConfig) -> tuple[str, ...]:
    """Who is asked for pictures, as `LOST_SHARES` names them."""
    if config.dataset == "yfcc":
        return config.prefer
    return ("local",) if config.dataset == "local" else ("list",)


def _rates(config: BuildConfig, known: Inputs) -> _Rates:
    timings, given = known.timings, config.estimate
    rows, pictures = (sum(getattr(t, name) for t in timings) for name in ("rows", "pictures"))
    believed = rows >= MEASURED_FROM_ROWS and pictures > 0
    lost, lost_how = math.prod(LOST_SHARES[source] for source in _sources(config)), "assumed"
    if believed:
        lost, lost_how = 1 - pictures / rows, "measured"
    size, size_how = float(PICTURE_BYTES), "assumed"
    if config.data_name == "sample":
        size, size_how = float(SAMPLE_PICTURE_BYTES), "as drawn"
    if given.picture_kb is not None:
        size, size_how = 1000 * given.picture_kb, "given"
    elif believed:
        size, size_how = sum(t.num_bytes for t in timings) / pictures, "measured"
    stored, stored_how = size + _TAR_OVERHEAD_BYTES, f"picture + {_TAR_OVERHEAD_BYTES / 1000:.1f} kB of tar and texts"
    if known.stored_bytes_per_sample is not None:
        stored, stored_how = known.stored_bytes_per_sample, "as sealed so far"
    elif config.resize is not None and size_how == "assumed":
        stored_how += ", before --resize"
    processes = config.processes
    if config.executor == "slurm":
        tasks = math.ceil(known.num_units / config.slurm.units_per_task)
        processes = min(config.slurm.max_tasks, max(tasks, 1)) * config.slurm.cpus_per_task
    speed = PICTURES_PER_S_AND_PROCESS * processes
    speed_how = f"assumed: {PICTURES_PER_S_AND_PROCESS:.0f} pictures/s in each of {processes} processes"
    measured = pictures_per_s(timings)
    if given.pictures_per_s is not None:
        speed, speed_how = given.pictures_per_s, f"at {given.pictures_per_s:g} pictures/s, given"
    elif believed and measured is not None:
        speed, speed_how = measured, f"at {measured:.0f} pictures/s, measured"
    return _Rates(
        lost=lost,
        lost_how=lost_how,
        picture_bytes=size,
        picture_how=size_how,
        stored_bytes=stored + _INDEX_BYTES_PER_SAMPLE,
        stored_how=stored_how,
        pictures_per_s=speed,
        speed_how=speed_how,
    )


def _requests(config: BuildConfig, rows: float) -> float:
    """Requests for the pictures of so many rows: each source is asked for what those before it did not give."""
    total = 0.0
    for source in _sources(config):
        if source not in {"zip", "local"}:
            total += rows * (1 + (RETRIED_SHARE if config.retries else 0))
        rows *= LOST_SHARES[source]
    return total


def _local_peak_bytes(config: BuildConfig, known: Inputs, rates: _Rates) -> float:
    """Local disk at the worst moment: the selection, a group being sealed, and the next one being downloaded.

    A picture is there twice while its unit is downloaded: as img2dataset leaves it and checked.
    """
    per_unit = known.selected.rows / max(known.num_units, 1) * rates.picture_bytes
    group = max(UNITS_PER_PROCESS * config.processes, ROWS_PER_CALL // config.samples_per_shard)
    if config.executor == "slurm":
        group = config.slurm.units_per_task * config.slurm.max_tasks
    group = min(group, max(known.units_left, 1))
    return _SELECTION_BYTES_PER_ROW * known.selected.rows + per_unit * (3 * group + config.processes)


def _count(value: float) -> str:
    return f"{round(value):,}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def _usd(value: float) -> str:
    return f"{value:,.2f} USD"


def _known(count: Count) -> str:
    return f"exact: {count.how}" if count.is_exact else f"estimated: {count.how}"


Pair = tuple[float, float]
"""The whole build, and what is left of it."""


def _line(what: str, show: Callable[[float], str], both: Pair, how: str) -> Line:
    return Line(what=what, whole=show(both[0]), left=show(both[1]), how=how)


def _costs(config: BuildConfig, stored: float, down: Pair, asked: Pair, objects: Pair) -> list[Line]:
    prices = config.estimate
    puts = (objects[0] / 1000 * prices.put_usd_per_1000, objects[1] / 1000 * prices.put_usd_per_1000)
    gets = (asked[0] / 1000 * prices.get_usd_per_1000, asked[1] / 1000 * prices.get_usd_per_1000)
    moved = (down[0] / 1e9 * prices.egress_usd_per_gb, down[1] / 1e9 * prices.egress_usd_per_gb)
    month = stored / 1e9 * prices.storage_usd_per_gb_month
    return [
        _line("cost of writing", _usd, puts, f"{prices.put_usd_per_1000:g} USD per 1000"),
        _line("cost of reading", _usd, gets, f"{prices.get_usd_per_1000:g} USD per 1000"),
        _line("cost of egress", _usd, moved, f"{prices.egress_usd_per_gb:g} USD per GB"),
        Line(
            what="cost of storage a month",
            whole=_usd(month),
            left="",
            how=f"{prices.storage_usd_per_gb_month:g} USD per GB; prices: --estimate.*",
        ),
    ]


def reckon(config: BuildConfig, known: Inputs) -> list[Line]:
    """The table's lines."""
    rates = _rates(config, known)
    rows = (float(known.selected.rows), float(known.rows_to_fetch))
    pictures = (rows[0] * (1 - rates.lost), rows[1] * (1 - rates.lost))
    down = (pictures[0] * rates.picture_bytes, pictures[1] * rates.picture_bytes)
    seconds = (pictures[0] / rates.pictures_per_s, pictures[1] / rates.pictures_per_s)
    asked = (_requests(config, rows[0]), _requests(config, rows[1]))
    stored = pictures[0] * rates.stored_bytes
    units = (known.num_units, known.units_left)
    stored_left = stored * units[1] / max(units[0], 1)
    objects = (_OBJECTS_PER_SHARD * units[0] + _OTHER_OBJECTS, _OBJECTS_PER_SHARD * units[1] + _OTHER_OBJECTS)
    unread = 0 if known.is_selected else 1
    return [
        _line("metadata to read", format_bytes, (known.metadata_bytes, known.metadata_bytes * unread), "exact"),
        _line("rows", _count, (known.rows.rows, known.rows.rows * unread), _known(known.rows)),
        _line("rows selected", _count, rows, _known(known.selected)),
        _line("shards", _count, units, "exact" if known.is_selected else "rows selected / rows of a shard"),
        _line("requests", _count, asked, f"{100 * RETRIED_SHARE:.0f} % made twice, assumed"),
        _line("pictures", _count, pictures, f"{100 * rates.lost:.3g} % lost, {rates.lost_how}"),
        _line("bytes down", format_bytes, down, f"{rates.picture_bytes / 1000:.0f} kB a picture, {rates.picture_how}"),
        _line("time to download", _duration, seconds, rates.speed_how),
        _line("bytes stored", format_bytes, (stored, stored_left), rates.stored_how),
        _line("objects written", _count, objects, f"{_OBJECTS_PER_SHARD} a shard and {_OTHER_OBJECTS}"),
        Line(
            what="local disk at the peak",
            whole=format_bytes(_local_peak_bytes(config, known, rates)),
            left="",
            how="selection, one group of shards being sealed, the next being downloaded",
        ),
        *_costs(config, stored, down, asked, objects),
    ]


def print_estimate(config: BuildConfig, work: Path) -> str:
    """The table as text; InputError when an input is missing."""
    lines = reckon(config, gather_inputs(config, work))
    head = Line(what=f"{config.data_name}:", whole="in all", left="left to do", how="how it is known")
    widths = [max(len(getattr(line, name)) for line in (head, *lines)) for name in ("what", "whole", "left")]
    return "\n".join(
        f"{line.what:<{widths[0]}}  {line.whole:>{widths[1]}}  {line.left:>{widths[2]}}  {line.how}".rstrip()
        for line in (head, *lines)
    )
