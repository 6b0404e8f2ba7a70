"""What the report shows that only the work folder knows: losses by year, sources, duplicates, comparisons.

In come WORK/selection and WORK/fetched, one unit after the other, and WORK/selection/scores.json; out go counters.
Where something is gone, or was not noted by the build that made it, there is nothing to show and no error.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.fetch.fetched import outcomes_path
from pipeline.records import Reason
from pipeline.report.facts import Comparison, Duplicate, Fetched
from pipeline.selection.score import SCORES_NAME
from pipeline.selection.selection import num_units, part_path, read_funnel

NUM_DUPLICATES = 8
_GONE = pa.array([str(Reason.DEAD_LINK), str(Reason.PLACEHOLDER)])
_KEPT_OR_DUPLICATE = pa.array(["", str(Reason.DUPLICATE_IMAGE)])
_FROM_SELECTION = ("key", "date_taken", "page_url")
_FROM_OUTCOMES = ("key", "reason", "detail", "source", "attempts")


def count_values(counter: Counter[Any], column: pa.ChunkedArray) -> None:
    """Add a column's values to a counter."""
    for entry in pc.value_counts(column).to_pylist():
        counter[entry["values"]] += entry["counts"]


def years_of(dates: pa.ChunkedArray) -> pa.ChunkedArray:
    """ "2009-07-14 12:00:00.0" -> "2009", "" where there is no plausible year."""
    years = pc.utf8_slice_codeunits(dates, 0, 4)
    plausible = pc.match_substring_regex(years, "^(18|19|20)[0-9]{2}$")
    return pc.if_else(pc.fill_null(plausible, False), years, "")


def _read(path: Path, wanted: tuple[str, ...]) -> pa.Table:
    """Those of the columns that there are."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=[name for name in wanted if name in file.schema_arrow.names])
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it and run the build again") from error


def _count_sources(fetched: Fetched, outcomes: pa.Table) -> None:
    """Who was asked, who gave, and who gave what instead."""
    if not {"source", "attempts"} <= set(outcomes.column_names):
        return
    count_values(fetched.came_from, outcomes["source"].filter(pc.equal(outcomes["reason"], "")))
    attempts = pc.list_flatten(outcomes["attempts"])
    pairs = pa.table({name: pc.struct_field(attempts, name) for name in ("source", "reason")})
    for entry in pairs.group_by(["source", "reason"]).aggregate([([], "count_all")]).to_pylist():
        fetched.asked_of[entry["source"]] += entry["count_all"]
        if entry["reason"]:
            fetched.refused_by[entry["source"], entry["reason"]] += entry["count_all"]


def _duplicates(selection: pa.Table, outcomes: pa.Table) -> list[Duplicate]:
    is_duplicate = pc.equal(outcomes["reason"], str(Reason.DUPLICATE_IMAGE))
    found = selection.select(["key", "page_url"]).append_column("detail", outcomes["detail"]).filter(is_duplicate)
    return [Duplicate(**row) for row in found.slice(0, NUM_DUPLICATES).to_pylist()]


def read_fetched(work: Path) -> Fetched | None:
    """Counts over all units; None when the work folder does not hold all of them any more."""
    if read_funnel(work) is None:
        return None
    fetched = Fetched()
    duplicates: list[Duplicate] = []
    for unit in range(num_units(work)):
        part, outcomes_file = part_path(work, unit), outcomes_path(work, unit)
        if not (part.exists() and outcomes_file.exists()):
            return None
        selection, outcomes = _read(part, _FROM_SELECTION), _read(outcomes_file, _FROM_OUTCOMES)
        if selection["key"] != outcomes["key"]:
            raise StoreError(f"{outcomes_file}: its rows are not those of {part}; delete it and run the build again")
        reason, years = outcomes["reason"], years_of(selection["date_taken"])
        count_values(fetched.asked_by_year, years)
        count_values(fetched.gone_by_year, years.filter(pc.is_in(reason, _GONE)))
        count_values(fetched.lost_by_year, years.filter(pc.invert(pc.is_in(reason, _KEPT_OR_DUPLICATE))))
        _count_sources(fetched, outcomes)
        duplicates += _duplicates(selection, outcomes)[: NUM_DUPLICATES - len(duplicates)]
    return replace(fetched, duplicates=duplicates)


def read_comparisons(work: Path) -> list[Comparison]:
    """What --also-score found (see `score.Score`), by the names of the lists; [] when it was not asked for."""
    path = work / "selection" / SCORES_NAME
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        return [_comparison(url, score) for url, score in sorted(found.items())]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not what --also-score writes ({error!r}); delete it and run the same command again"
        ) from None


def _comparison(url: str, score: dict[str, Any]) -> Comparison:
    return Comparison(
        name=url.rstrip("/").rpartition("/")[2],  # the page says nothing about the machine it was made on
        here=int(score["here"]),
        there=int(score["there"]),
        both=int(score["both"]),
        only_here=int(score["only_here"]),
        only_there=int(score["only_there"]),
        precision=float(score["precision"]),
        recall=float(score["recall"]),
        jaccard=float(score["jaccard"]),
        lost={str(reason): int(count) for reason, count in (score["lost"] or {}).items()},
    )
