from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, tuples

from pipeline.fetch.timing import Timing
from pipeline.manifest import Manifest
from pipeline.report.facts import Fetched
from pipeline.report.fetching import fetching_section, rates


def timing(start: float, seconds: float, pictures: int) -> Timing:
    return Timing(
        unit=0, ended_unix=start + seconds, seconds=seconds, rows=pictures, pictures=pictures, num_bytes=100 * pictures
    )


def manifest(*, duplicates: int = 0, keep: bool = False) -> Manifest:
    return Manifest(
        name="n",
        variant="openai",
        num_samples=100,
        num_bytes=1,
        funnel={"rows": 100 + duplicates, "kept": 100, "rejected": {"duplicate_image": duplicates}},
        settings={"keep_duplicates": keep},
        shards=(),
    )


def test_rates_cut_out_pauses() -> None:
    heights, pauses, busy_s = rates([timing(0, 100, 1000), timing(5000, 100, 500)], 4)
    assert heights == pytest.approx([10, 10, 5, 5])
    assert pauses == [0.5]
    assert busy_s == 200


def test_short_gaps_stay_and_units_at_once_add_up() -> None:
    heights, pauses, busy_s = rates([timing(0, 100, 100), timing(0, 100, 300), timing(150, 50, 200)], 4)
    assert heights == pytest.approx([4, 4, 0, 4])
    assert (pauses, busy_s) == ([], 200)


@given(lists(tuples(floats(0, 5000), floats(0.01, 500), integers(0, 10**6)), min_size=1, max_size=15))
def test_no_picture_is_lost_from_the_rates(units: list[tuple[float, float, int]]) -> None:
    timings = [timing(1.7e9 + start, seconds, pictures) for start, seconds, pictures in units]
    heights, _, busy_s = rates(timings, 20)
    assert sum(heights) * busy_s / 20 == pytest.approx(sum(t.pictures for t in timings), rel=1e-3, abs=1e-3)


def test_years_with_losses_are_shown_as_shares() -> None:
    fetched = Fetched(
        asked_by_year=Counter({"2007": 100, "2008": 50, "": 0}),
        gone_by_year=Counter({"2007": 4}),
        lost_by_year=Counter({"2007": 6, "2008": 5}),
    )
    page = fetching_section(manifest(), fetched, ())
    assert "2.7 % of the photographs asked for are gone" in page
    assert "4.7 % were lost otherwise" in page
    assert 'title="2007: 6.0 %"' in page
    assert "<th scope=row>2007</th><td>100</td><td>4</td><td>4.0 %</td><td>6</td>" in page
    assert "unknown" not in page


def test_sources_say_what_they_gave_and_what_not() -> None:
    fetched = Fetched(
        asked_by_year=Counter({"2007": 100}),
        asked_of=Counter(url=100, bucket=20),
        came_from=Counter(url=80, bucket=15),
        refused_by=Counter({("url", "dead_link"): 20, ("bucket", "dead_link"): 5}),
    )
    page = fetching_section(manifest(), fetched, ())
    assert "asked for 100; did not give: dead link 20" in page
    assert "20 times the next source was asked" in page
    assert "<th scope=row>public bucket</th><td>20</td><td>15</td><td>75.0 %</td>" in page


@pytest.mark.parametrize(
    ("duplicates", "keep", "said"),
    [
        (25, False, "25 pictures (20.0 % of the good ones) were left out"),
        (0, False, "No two samples have the same picture"),
        (0, True, "They were kept and not counted"),
    ],
)
def test_duplicates_are_told(duplicates: int, keep: bool, said: str) -> None:
    assert said in fetching_section(manifest(duplicates=duplicates, keep=keep), None, ())


def test_the_rate_is_shown_only_when_it_was_measured() -> None:
    page = fetching_section(manifest(), None, [timing(0, 100, 1000), timing(5000, 100, 500)])
    assert "1,500 pictures (150 kB) in 3.3 min: 7.5 pictures and 750 bytes a second" in page
    assert "pauses, cut out (1)" in page
    assert "Download rate" not in fetching_section(manifest(), None, [timing(0, 100, 0)])
