from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import BuildConfig, EstimateConfig
from pipeline.errors import InputError
from pipeline.fetch.timing import Timing
from pipeline.metadata.row_counts import Count
from pipeline.report.estimate import print_estimate, reckon
from pipeline.report.estimate_inputs import Inputs, gather_inputs
from pipeline.seal.seal import seal_unit
from tests.small_build import ROWS_PER_UNIT, fetch_unit, note_time, select_units, settings

TIMINGS = [Timing(unit=0, ended_unix=100.0, seconds=10.0, rows=2000, pictures=1500, num_bytes=150_000_000)]


def known(*, timings: Sequence[Timing] = (), stored: float | None = None) -> Inputs:
    return Inputs(
        metadata_bytes=15_000_000_000,
        rows=Count(rows=100_000_000, is_exact=False, how="size"),
        selected=Count(rows=15_000_000, is_exact=False, how="list"),
        is_selected=False,
        num_units=1500,
        units_left=500,
        units_to_fetch=300,
        rows_to_fetch=3_000_000,
        stored_bytes_per_sample=stored,
        timings=timings,
    )


def table(config: BuildConfig, inputs: Inputs) -> dict[str, tuple[str, str, str]]:
    return {line.what: (line.whole, line.left, line.how) for line in reckon(config, inputs)}


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    return replace(settings(tmp_path), prefer=("bucket",), processes=4, samples_per_shard=10_000)


def test_numbers_follow_from_each_other(config: BuildConfig) -> None:
    prices = EstimateConfig(
        pictures_per_s=1000, picture_kb=100, storage_usd_per_gb_month=0.02, egress_usd_per_gb=0.1, put_usd_per_1000=5
    )
    found = table(replace(config, estimate=prices), known())
    pictures, left = 15e6 * 0.9997, 3e6 * 0.9997
    assert found["metadata to read"][:2] == ("15.0 GB", "15.0 GB")
    assert found["rows"][2] == "estimated: size"
    assert found["requests"][:2] == ("15,300,000", "3,060,000")
    assert found["pictures"][:2] == (f"{pictures:,.0f}", f"{left:,.0f}")
    assert found["bytes down"][:2] == ("1.5 TB", "300 GB")
    assert found["time to download"] == ("4.2 h", "50.0 min", "at 1000 pictures/s, given")
    assert found["bytes stored"][:2] == ("1.6 TB", "518 GB")
    assert found["objects written"][:2] == ("4,504", "1,504")
    assert found["cost of writing"][:2] == ("22.52 USD", "7.52 USD")
    assert found["cost of reading"][:2] == ("6.12 USD", "1.22 USD")
    assert found["cost of egress"][:2] == (f"{pictures * 1e-4 * 0.1:,.2f} USD", f"{left * 1e-4 * 0.1:,.2f} USD")
    assert found["cost of storage a month"][0] == f"{pictures * 103_628 / 1e9 * 0.02:,.2f} USD"


def test_what_was_measured_is_believed_unless_something_else_is_given(config: BuildConfig) -> None:
    assert table(config, known())["time to download"][2] == "assumed: 50 pictures/s in each of 4 processes"
    measured = table(config, known(timings=TIMINGS, stored=104_000.0))
    assert measured["time to download"][2] == "at 150 pictures/s, measured"
    assert measured["pictures"][::2] == ("11,250,000", "25 % lost, measured")
    assert "100 kB a picture, measured" in measured["bytes down"]
    assert measured["bytes stored"][2] == "as sealed so far"
    given = replace(config, estimate=EstimateConfig(pictures_per_s=7, picture_kb=33))
    found = table(given, known(timings=TIMINGS))
    assert found["time to download"][2] == "at 7 pictures/s, given"
    assert "33 kB a picture, given" in found["bytes down"]
    few = [replace(TIMINGS[0], rows=10, pictures=1)]
    assert "assumed" in table(config, known(timings=few))["pictures"][2]


def test_sources_are_asked_in_turn(config: BuildConfig) -> None:
    both = table(replace(config, prefer=("url", "bucket"), retries=0), known())
    assert both["requests"][0] == f"{15_000_000 * 1.02:,.0f}"
    zipped = table(replace(config, prefer=("zip",), zip_root="/zips"), known())
    assert zipped["requests"][0] == "0"


def test_a_cluster_has_more_processes_and_larger_groups(config: BuildConfig) -> None:
    cluster = table(replace(config, executor="slurm"), known())
    assert "50 pictures/s in each of 512 processes" in cluster["time to download"][2]
    here = table(config, known())
    assert float(cluster["local disk at the peak"][0].split()[0]) > float(here["local disk at the peak"][0].split()[0])


def test_rows_come_from_the_inputs_before_selection(tmp_path: Path, config: BuildConfig) -> None:
    (tmp_path / "rows.tsv").write_bytes(b"x\n" * 1000)
    (tmp_path / "list.tsv").write_bytes(b"x\n" * 25)
    config = replace(config, samples_per_shard=10)
    found = gather_inputs(config, tmp_path / "work")
    assert (found.rows.rows, found.rows.is_exact, found.metadata_bytes) == (1000, True, 2000)
    assert (found.selected.rows, found.selected.is_exact, found.num_units) == (25, False, 3)
    assert (found.units_left, found.rows_to_fetch, found.is_selected) == (3, 25, False)
    english = gather_inputs(replace(config, variant="english", subset_list=None), tmp_path / "work")
    assert english.selected.rows == 150
    (tmp_path / "rows.tsv").unlink()
    with pytest.raises(InputError, match=r"rows\.tsv"):
        print_estimate(config, tmp_path / "work")


def test_what_is_done_is_not_left_to_do(tmp_path: Path) -> None:
    config, work = settings(tmp_path), tmp_path / "work"
    (tmp_path / "rows.tsv").write_bytes(b"x\n")
    select_units(work, 4)
    fetch_unit(work, 0)
    seal_unit(config, work, 0)
    fetch_unit(work, 2)
    found = gather_inputs(config, work)
    assert (found.num_units, found.units_left, found.units_to_fetch) == (4, 3, 2)
    assert found.rows_to_fetch == 2 * ROWS_PER_UNIT
    assert (found.rows.rows, found.selected.rows) == (4 * ROWS_PER_UNIT + 88, 4 * ROWS_PER_UNIT)
    assert found.stored_bytes_per_sample is not None
    assert len(found.timings) == 2
    before = sorted(tmp_path.rglob("*"))
    text = print_estimate(config, work)
    assert sorted(tmp_path.rglob("*")) == before
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["rows"][1:3] == ["112", "0"]
    assert lines["shards"][1:3] == ["4", "3"]


def test_a_build_on_one_day_goes_on_at_its_own_rate(tmp_path: Path) -> None:
    config, work = settings(tmp_path), tmp_path / "work"
    (tmp_path / "rows.tsv").write_bytes(b"x\n")
    select_units(work, 2)
    (work / "fetched").mkdir()
    note_time(work, 0, pictures=900, rows=1000, seconds=3.0)
    text = print_estimate(config, work)
    assert "at 300 pictures/s, measured" in text
    assert "10 % lost, measured" in text


def test_the_embedded_sample_needs_no_input(tmp_path: Path) -> None:
    text = print_estimate(BuildConfig(), tmp_path / "work")
    assert text.startswith("sample:")
    assert "4,000" in text
