"""What is known of a build before it is done, or half done: sizes of its inputs, and what earlier runs left.

In come the settings and the work folder; out go numbers for `estimate` to reckon with. Nothing is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.fetch.timing import Timing, read_timing
from pipeline.metadata import metadata
from pipeline.metadata.row_counts import Count, count_rows
from pipeline.records import Funnel
from pipeline.seal.seal import read_entry
from pipeline.selection.selection import num_units, part_path, read_funnel

ENGLISH_SHARES = {"description": 0.15, "title,description": 0.29}
"""Rows with a text in English, of 500 hand-labelled rows of YFCC100M; OpenAI's list holds 14.8 % of all rows."""
SAMPLE_ROWS, SAMPLE_SELECTED = 4000, 2874
"""Of the embedded sample."""
SAMPLE_SAMPLES_PER_SHARD = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is known before reckoning."""

    metadata_bytes: int
    rows: Count
    selected: Count
    """Rows to ask for pictures of."""
    is_selected: bool
    """Whether the selection is finished."""
    num_units: int
    units_left: int
    """Units that are not sealed."""
    units_to_fetch: int
    rows_to_fetch: int
    """Of the units that are neither sealed nor fetched."""
    stored_bytes_per_sample: float | None
    """As sealed so far."""
    timings: Sequence[Timing]


def _rows(config: BuildConfig, funnel: Funnel | None) -> Count:
    if funnel is not None:
        return Count(rows=funnel.rows, is_exact=True, how="selected already")
    if config.data_name == "sample":
        return Count(rows=SAMPLE_ROWS, is_exact=True, how="the embedded sample")
    counts = [count_rows(url) for url in metadata.files(config)]
    hows = list(dict.fromkeys(count.how for count in counts))
    how = hows[0] if len(hows) == 1 else f"{len(counts)} files, each by its size or count"
    return Count(rows=sum(c.rows for c in counts), is_exact=all(c.is_exact for c in counts), how=how)


def _selected(config: BuildConfig, rows: Count, funnel: Funnel | None) -> Count:
    """Rows that selection keeps or would keep."""
    if funnel is not None:
        return Count(rows=funnel.kept, is_exact=True, how="selected already")
    if config.data_name == "sample":
        return Count(rows=SAMPLE_SELECTED, is_exact=True, how="the embedded sample")
    if config.chosen_variant == "english":
        portion = ENGLISH_SHARES[config.caption_fields]
        return Count(
            rows=round(portion * rows.rows), is_exact=False, how=f"{100 * portion:.0f} % of rows, labelled by hand"
        )
    if config.subset_list is not None:
        listed = count_rows(config.subset_list)
        how = f"at most the rows of the list ({listed.how})"
        return Count(rows=min(listed.rows, rows.rows), is_exact=False, how=how)
    return Count(rows=rows.rows, is_exact=False, how="at most every row")


def unit_numbers(folder: Path, suffix: str) -> set[int]:
    """Units that have a file like NNNNN.parquet in a folder."""
    pattern = re.compile(rf"(\d{{5,}}){re.escape(suffix)}")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {int(match[1]) for match in map(pattern.fullmatch, names) if match}


def gather_inputs(config: BuildConfig, work: Path) -> Inputs:
    """What inputs and work folder tell; InputError when an input is missing."""
    funnel = read_funnel(work)
    is_sample = config.data_name == "sample"
    rows = _rows(config, funnel)
    selected = _selected(config, rows, funnel)
    per_shard = min(config.samples_per_shard, SAMPLE_SAMPLES_PER_SHARD) if is_sample else config.samples_per_shard
    units = num_units(work) if funnel is not None else math.ceil(selected.rows / per_shard)
    sealed = unit_numbers(work / "sealed", ".json") if funnel is not None else set()
    fetched = (
        unit_numbers(work / "fetched", ".parquet") & unit_numbers(work / "fetched", ".tar")
        if funnel is not None
        else set()
    )
    to_fetch = sorted(set(range(units)) - sealed - fetched)
    rows_to_fetch = selected.rows
    if funnel is not None:
        rows_to_fetch = sum(pq.read_metadata(part_path(work, unit)).num_rows for unit in to_fetch)
    entries = [entry for unit in sorted(sealed) if (entry := read_entry(work, unit)) is not None]
    shards = [entry.shard for entry in entries if entry.shard is not None]
    samples = sum(shard.num_samples for shard in shards)
    return Inputs(
        metadata_bytes=0 if is_sample else metadata.total_bytes(config),
        rows=rows,
        selected=selected,
        is_selected=funnel is not None,
        num_units=units,
        units_left=units - len(sealed),
        units_to_fetch=len(to_fetch),
        rows_to_fetch=rows_to_fetch,
        stored_bytes_per_sample=sum(shard.num_bytes for shard in shards) / samples if samples else None,
        timings=read_timing(work),
    )
