"""Duplicates against a slow, obvious version; marking twice, in several runs and with late pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists

from pipeline.config import BuildConfig
from pipeline.errors import StoreError
from pipeline.fetch import duplicates
from pipeline.fetch.duplicates import DigestIndex, Duplicates
from pipeline.fetch.fetched import outcomes_path, read_outcomes
from pipeline.records import OUTCOME_SCHEMA

CONFIG = BuildConfig(metadata=("rows.tsv",), subset_list="list.tsv", output="replaced")
DEAD = -1


def sha256(picture: int) -> str:
    return hashlib.sha256(str(picture).encode()).hexdigest()


def table(unit: int, pictures: Sequence[int]) -> pa.Table:
    """Outcomes of a unit's rows; equal numbers are equal pictures, DEAD is none."""
    good = [picture != DEAD for picture in pictures]
    columns = {
        "key": [f"k{unit}-{i}" for i in range(len(pictures))],
        "row": list(range(len(pictures))),
        "url": ["http://x/"] * len(pictures),
        "source": ["url"] * len(pictures),
        "reason": ["" if ok else "dead_link" for ok in good],
        "detail": ["" if ok else "HTTP 404" for ok in good],
        "attempts": [[{"source": "url", "reason": "" if ok else "dead_link", "detail": ""}] for ok in good],
        "member": [f"{i:08d}.jpg" if ok else "" for i, ok in enumerate(good)],
        "offset": [512 + 1024 * i if ok else -1 for i, ok in enumerate(good)],
        "format": ["jpg" if ok else "" for ok in good],
        "width": [20 * ok for ok in good],
        "height": [20 * ok for ok in good],
        "num_bytes": [500 * ok for ok in good],
        "sha256": [sha256(picture) if ok else "" for picture, ok in zip(pictures, good, strict=True)],
    }
    return pa.table(columns, schema=OUTCOME_SCHEMA)


def write(work: Path, units: Sequence[Sequence[int]]) -> None:
    for unit, pictures in enumerate(units):
        path = outcomes_path(work, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(unit, pictures), path)


def expected(units: Sequence[Sequence[int]]) -> list[list[str]]:
    """The detail of each outcome, by going through all pictures one after the other."""
    first: dict[int, str] = {}
    details: list[list[str]] = []
    for unit, pictures in enumerate(units):
        details.append([])
        for i, picture in enumerate(pictures):
            if picture == DEAD:
                details[-1].append("HTTP 404")
            else:
                details[-1].append(first.get(picture, ""))
                first.setdefault(picture, f"same bytes as k{unit}-{i} of unit {unit:05d}")
    return details


def found(work: Path, num_units: int) -> list[list[str]]:
    return [read_outcomes(work, unit)["detail"].to_pylist() for unit in range(num_units)]


def files(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work / "fetched").iterdir()}


@settings(max_examples=30, deadline=None)
@given(lists(lists(integers(DEAD, 12), max_size=8), min_size=1, max_size=5), integers(1, 4), integers(0, 4))
def test_each_picture_is_kept_once_whatever_the_runs(
    tmp_path_factory: pytest.TempPathFactory, units: list[list[int]], group: int, killed_after: int
) -> None:
    work = tmp_path_factory.mktemp("work")
    write(work, units)
    numbers = list(range(len(units)))
    first = Duplicates(CONFIG, work)
    first.mark(numbers[:killed_after])
    again = Duplicates(CONFIG, work)  # marks a unit anew that the killed run had marked
    for start in range(max(0, killed_after - 1), len(units), group):
        again.mark(numbers[start : start + group])
    assert found(work, len(units)) == expected(units)
    before = files(work)
    assert Duplicates(CONFIG, work).mark(numbers) == 0
    assert files(work) == before


def test_a_duplicate_is_rejected_with_its_attempts_and_digest(tmp_path: Path) -> None:
    write(tmp_path, [[7, DEAD], [8, 7, 8]])
    assert Duplicates(CONFIG, tmp_path).mark([0, 1]) == 2
    kept, second, third = read_outcomes(tmp_path, 1).to_pylist()
    assert kept == table(1, [8, 7, 8]).to_pylist()[0]
    assert second["reason"] == third["reason"] == "duplicate_image"
    assert second["detail"] == "same bytes as k0-0 of unit 00000"
    assert third["detail"] == "same bytes as k1-0 of unit 00001"
    assert (second["member"], second["offset"], second["format"]) == ("", -1, "")
    assert second["attempts"] == [{"source": "url", "reason": "", "detail": ""}]
    assert (second["sha256"], second["num_bytes"]) == (sha256(7), 500)
    assert read_outcomes(tmp_path, 0).equals(table(0, [7, DEAD]))


def test_units_without_duplicates_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [[1, 2], [3], [4, 1]])
    written: list[int] = []
    monkeypatch.setattr(duplicates, "write_outcomes", lambda work, unit, marked: written.append(unit))
    Duplicates(CONFIG, tmp_path).mark([0, 1, 2])
    assert written == [2]


def test_a_unit_made_anew_is_marked_as_it_was(tmp_path: Path) -> None:
    """Its shard was lost: later units are sealed and marked, and must not make duplicates of what they came after."""
    write(tmp_path, [[1, 2], [1, 3], [3, 2]])
    Duplicates(CONFIG, tmp_path).mark([0, 1, 2])
    before = files(tmp_path)
    pq.write_table(table(1, [1, 3]), outcomes_path(tmp_path, 1))
    marking = Duplicates(CONFIG, tmp_path)
    marking.mark([1])
    assert files(tmp_path) == before
    pq.write_table(table(0, [1, 2]), outcomes_path(tmp_path, 0))
    marking.mark([0])
    assert files(tmp_path) == before


def test_keep_duplicates_keeps_them(tmp_path: Path) -> None:
    write(tmp_path, [[1, 1]])
    config = BuildConfig(metadata=("r",), subset_list="l", output="o", keep_duplicates=True)
    assert Duplicates(config, tmp_path).mark([0]) == 0
    assert read_outcomes(tmp_path, 0).equals(table(0, [1, 1]))


def test_a_late_picture_is_the_duplicate_of_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [[DEAD, DEAD, 4], [5, DEAD, DEAD], [6, 7]])
    monkeypatch.setattr(duplicates, "num_units", lambda work: 3)
    marking = Duplicates(CONFIG, tmp_path)
    marked = marking.mark_table(0, table(0, [7, 4, 4]), gained=[0, 1])
    assert marked["detail"].to_pylist() == [
        "same bytes as k2-1 of unit 00002",
        "same bytes as k0-2 of unit 00000",  # although it lies before it
        "",
    ]
    unit = table(1, [5, 9, 9])
    marked = marking.mark_table(1, unit, gained=[1, 2])
    assert marked["detail"].to_pylist() == ["", "", "same bytes as k1-1 of unit 00001"]
    pq.write_table(marked, outcomes_path(tmp_path, 1))
    assert marking.mark_table(2, table(2, [6, 7, 9]), gained=[2])["detail"].to_pylist()[2] == (
        "same bytes as k1-1 of unit 00001"
    )


def test_a_lower_unit_that_was_not_fetched_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [[1], [2]])
    outcomes_path(tmp_path, 0).unlink()
    with pytest.raises(StoreError, match="unit 0 has not been fetched"):
        Duplicates(CONFIG, tmp_path).mark([1])


@settings(max_examples=30, deadline=None)
@given(lists(lists(integers(0, 30), min_size=0, max_size=20), max_size=12), lists(integers(0, 40), max_size=20))
def test_the_index_finds_what_was_added(added: list[list[int]], asked: list[int]) -> None:
    """Many digests here share their first word."""

    def words(numbers: list[int]) -> duplicates.Words:
        return np.array([[n // 7, n % 7] for n in numbers], np.uint64).reshape(-1, 2)

    index = DigestIndex()
    for unit, numbers in enumerate(added):
        index.add(words(numbers), unit)
    found = index.find(words(asked))
    for position, number in enumerate(asked):
        units = [unit for unit, numbers in enumerate(added) for n in numbers if n == number]
        assert sorted(found.get(position, [])) == units


def test_runs_are_merged_but_not_beyond_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "LONGEST_RUN", 64)
    index = DigestIndex()
    random = np.random.default_rng(0)
    for unit in range(40):
        index.add(random.integers(0, 2**63, (8, 2), np.uint64), unit)
    assert sum(map(len, index.runs)) == 320
    assert max(map(len, index.runs)) == 64
    assert len(index.runs) == 5
