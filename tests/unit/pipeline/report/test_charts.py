from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis.strategies import dictionaries, floats, integers, sampled_from

from pipeline.report.charts import (
    Bar,
    bins,
    chart,
    columns,
    compact,
    format_bytes,
    histogram,
    link,
    quantile,
    ranking,
    share,
    strip,
    ticks,
    year_groups,
)


@given(dictionaries(integers(0, 100_000), integers(1, 50), max_size=40))
def test_bins_hold_every_sample(counts: dict[int, int]) -> None:
    made = bins(Counter(counts))
    assert sum(made.heights) == sum(counts.values())
    labels = [made.label(i) for i in range(len(made.heights))]
    assert len(set(labels)) == len(labels) <= 41
    assert made.is_open == (max(counts, default=0) >= len(labels) * made.width)


def test_bins_have_round_widths() -> None:
    made = bins(Counter({3: 2, 14: 1}), 2)
    assert (made.width, made.heights, made.is_open) == (10, [2, 1], False)
    assert [made.label(i) for i in range(2)] == ["0–9", "10–19"]
    crowded = bins(Counter({5: 1000, 5000: 1}))
    assert crowded.is_open
    assert crowded.label(len(crowded.heights) - 1) == "5 and more"


@given(dictionaries(integers(0, 100), integers(1, 9), min_size=1, max_size=20), sampled_from([0.05, 0.5, 0.95, 0.99]))
def test_quantile_is_that_of_the_sorted_values(counts: dict[int, int], portion: float) -> None:
    values = sorted(Counter(counts).elements())
    slow = next(v for i, v in enumerate(values) if (i + 1) >= portion * len(values))
    assert quantile(Counter(counts), portion) == slow


@given(floats(1e-6, 1e12))
def test_ticks_are_few_and_reach_the_top(top: float) -> None:
    marks = ticks(top)
    assert marks[0] == 0
    assert marks[-1] >= top * (1 - 1e-9)
    assert marks[-1] <= top * 2
    assert 2 <= len(marks) <= 6


def test_mis_set_cameras_do_not_stretch_the_years() -> None:
    counts = Counter({"1904": 1, "2080": 1, "": 5} | {str(year): 5000 for year in range(2005, 2015)})
    groups = year_groups(counts)
    assert groups["1904"] == "before 1999"
    assert groups["2080"] == "after 2014"
    assert groups[""] == "unknown"
    assert groups["2010"] == "2010"


def test_numbers_are_readable() -> None:
    sizes = [format_bytes(n) for n in (0, 999, 1234567, 68_341_760, 999_999, 1_500_000_000_000, 250_000)]
    assert sizes == ["0 bytes", "999 bytes", "1.2 MB", "68.3 MB", "1.0 MB", "1.5 TB", "250 kB"]
    assert [compact(n) for n in (0, 7, 0.5, 999, 12345, 999_999, 14_689_580)] == [
        "0",
        "7",
        "0.5",
        "999",
        "12.3 k",
        "1 M",
        "14.7 M",
    ]
    assert re.fullmatch(r"\d+\.\d TB", format_bytes(3 * 10**12))


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(1, 3, "33.3 %"), (0, 3, "0 %"), (3, 3, "100 %"), (1, 0, "–"), (1, 10**6, "< 0.01 %"), (3, 10**4, "0.03 %")],
)
def test_shares_do_not_round_something_to_nothing(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


def test_shares_do_not_round_most_to_all() -> None:
    assert share(9997, 10**4) == "99.97 %"
    assert share(10**6 - 1, 10**6) == "> 99.99 %"


def heights(drawing: str) -> list[float]:
    return [float(height) for height in re.findall(r"height:([\d.]+)%", drawing)]


def test_columns_are_as_high_as_their_values() -> None:
    drawn = columns(["2001", "2002", "2003"], [("a", [1, 2, 0]), ("b", [1, 0, 0])], percent=False)
    assert heights(drawn) == [50.0, 50.0, 100.0]
    assert drawn.count("<i ") == 3
    assert 'title="2001: 2"' in drawn


def test_a_histogram_marks_its_median() -> None:
    drawn = histogram(Counter({10: 1, 20: 1, 30: 2}), "words")
    assert "median 20" in drawn
    low, middle, high = heights(drawn)
    assert low == middle
    assert high == pytest.approx(2 * low, abs=0.01)
    assert high <= 100


def test_a_histogram_of_nothing_can_be_drawn() -> None:
    assert heights(histogram(Counter(), "words")) == []


def test_rankings_are_relative_to_the_first() -> None:
    drawn = ranking([Bar(name="<a>", count=8, said="8"), Bar(name="b", count=2, said="2", share="20 %", note="&")])
    assert re.findall(r"width:([\d.]+)%", drawn) == ["100.00", "25.00"]
    assert "&lt;a&gt;" in drawn
    assert "&amp;" in drawn


def test_strips_leave_out_parts_of_nothing_but_name_them() -> None:
    drawn = strip([("kept", 3, "here", "3"), ("lost", 0, "there", "0"), ("filter", 1, "else", "1")])
    assert re.findall(r"flex:([\d.]+)", drawn) == ["0.75000", "0.25000"]
    assert "there" in drawn


def test_charts_say_in_words_what_they_show() -> None:
    drawn = chart('T"<', "says &", "<i></i>", "<table></table>", note="<n>")
    assert 'aria-label="Chart. T&quot;&lt;: says &amp;"' in drawn
    assert "<details><summary>Numbers</summary><table>" in drawn
    assert "&lt;n&gt;" in drawn


@pytest.mark.parametrize("url", ["javascript:alert(1)", "", "data:text/html,x", "//example.org", "HTTP"])
def test_only_web_addresses_become_links(url: str) -> None:
    assert link(url, "<t>") == "&lt;t&gt;"
    assert link('https://e.org/"x', "t") == '<a href="https://e.org/&quot;x" rel="noopener noreferrer">t</a>'
