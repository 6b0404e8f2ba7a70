from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.fetch.fetched import outcomes_path
from pipeline.report.work import NUM_DUPLICATES, read_comparisons, read_fetched, years_of
from pipeline.selection.score import SCORES_NAME, Score
from tests.small_build import fetch_unit, select_units


def test_years_are_taken_from_plausible_dates() -> None:
    dates = pa.chunked_array([["2009-07-14 12:00:00.0", "", "null", "0000-00-00", "1904-01-01", "2009", "３００９"]])
    assert years_of(dates).to_pylist() == ["2009", "", "", "", "1904", "2009", ""]


def test_losses_sources_and_duplicates_are_counted(tmp_path: Path) -> None:
    select_units(tmp_path, 3)
    for unit in range(3):
        fetch_unit(tmp_path, unit)
    found = read_fetched(tmp_path)
    assert found is not None
    assert found.asked_by_year == {"2007": 9, "2008": 9}
    assert +found.gone_by_year == {"2008": 3}  # row 3 of each unit
    assert +found.lost_by_year == {"2007": 3, "2008": 3}  # a duplicate is no loss
    assert found.came_from == {"url": 9}
    assert found.asked_of == {"url": 18, "bucket": 6}
    assert found.refused_by == {("url", "dead_link"): 3, ("url", "unreachable"): 3, ("bucket", "dead_link"): 6}
    assert [duplicate.key for duplicate in found.duplicates] == ["1005", "1011", "1017"]
    assert found.duplicates[0].detail == "same bytes as 1000 of unit 00000"


def test_only_some_duplicates_are_kept(tmp_path: Path) -> None:
    select_units(tmp_path, 2)
    for unit in range(2):
        fetch_unit(tmp_path, unit, ["", *["duplicate_image"] * 5])
    found = read_fetched(tmp_path)
    assert found is not None
    assert len(found.duplicates) == NUM_DUPLICATES < 10


def test_what_was_not_noted_is_not_counted(tmp_path: Path) -> None:
    select_units(tmp_path, 1)
    fetch_unit(tmp_path, 0)
    path = outcomes_path(tmp_path, 0)
    pq.write_table(pq.read_table(path).drop_columns(["source", "attempts", "offset"]), path)
    found = read_fetched(tmp_path)
    assert found is not None
    assert not found.asked_of
    assert found.asked_by_year.total() == 6


def test_nothing_is_said_of_a_folder_that_is_gone_or_incomplete(tmp_path: Path) -> None:
    assert read_fetched(tmp_path) is None
    assert read_comparisons(tmp_path) == []
    select_units(tmp_path, 2)
    fetch_unit(tmp_path, 0)
    assert read_fetched(tmp_path) is None


def test_contradictions_and_damage_are_named(tmp_path: Path) -> None:
    select_units(tmp_path, 1)
    fetch_unit(tmp_path, 0)
    path = outcomes_path(tmp_path, 0)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(StoreError, match=r"00000\.parquet: its rows are not those of .*part-00000\.parquet"):
        read_fetched(tmp_path)
    path.write_bytes(b"no table")
    with pytest.raises(StoreError, match=r"00000\.parquet: cannot be read"):
        read_fetched(tmp_path)


def test_comparisons_are_read_or_named_as_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "selection"
    folder.mkdir()
    path = folder / SCORES_NAME
    scores = {
        "/home/somebody/list.tsv": Score(here=4, there=2, both=1, lost={"video": 1}).to_json(),
        "s3://bucket/other/": Score(here=4, there=8, both=4, lost=None).to_json(),
    }
    path.write_text(json.dumps(scores))
    first, second = read_comparisons(tmp_path)
    assert (first.name, first.recall, first.only_here, first.lost) == ("list.tsv", 0.5, 3, {"video": 1})
    assert (second.name, second.precision, second.only_there, second.lost) == ("other", 1.0, 4, {})
    for damaged in ('{"a": {}}', "[", "[1]", '{"a": 1}'):
        path.write_text(damaged)
        with pytest.raises(StoreError, match=r"scores\.json: not what --also-score writes"):
            read_comparisons(tmp_path)
