from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists, tuples

from pipeline.fetch.timing import PAUSE_S, Timing, busy_spans, pictures_per_s, read_timing, timing_path


def timing(ended: float, seconds: float, pictures: int = 10) -> Timing:
    return Timing(unit=0, ended_unix=ended, seconds=seconds, rows=20, pictures=pictures, num_bytes=1000)


def test_lines_are_read_in_order_and_torn_ones_left_out(tmp_path: Path) -> None:
    path = timing_path(tmp_path)
    path.parent.mkdir()
    assert read_timing(tmp_path) == []
    line = {"unit": 7, "ended_unix": 20.0, "seconds": 5.0, "rows": 4, "pictures": 3, "bytes": 99}
    lines = [
        json.dumps(line),
        json.dumps(line | {"unit": 1, "ended_unix": 9.5}),
        "",
        "[]",
        '{"unit": 3}',
        '{"unit": 4, "en',
    ]
    path.write_text("\n".join(lines))
    found = read_timing(tmp_path)
    assert [(t.unit, t.started_unix) for t in found] == [(1, 4.5), (7, 15.0)]
    assert (found[1].rows, found[1].pictures, found[1].num_bytes) == (4, 3, 99)


def test_the_rate_leaves_out_pauses() -> None:
    assert pictures_per_s([]) is None
    assert pictures_per_s([timing(5, 5, pictures=0)]) is None
    assert pictures_per_s([timing(5, 5), timing(1005, 5)]) == pytest.approx(2.0)
    assert pictures_per_s([timing(5, 5), timing(5, 5)]) == pytest.approx(4.0)
    assert pictures_per_s([timing(5, 5), timing(20, 5)]) == pytest.approx(1.0)  # a short gap is none


@given(lists(tuples(floats(0, 10_000), floats(0, 100)), max_size=20))
def test_busy_spans_are_disjoint_and_hold_every_unit(units: list[tuple[float, float]]) -> None:
    timings = [timing(start + seconds, seconds) for start, seconds in units]
    spans = busy_spans(timings)
    assert all(before[1] + PAUSE_S < after[0] for before, after in pairwise(spans))
    assert all(any(start <= t.started_unix and t.ended_unix <= end for start, end in spans) for t in timings)
    ends = {t.started_unix for t in timings} | {t.ended_unix for t in timings}
    assert all(start in ends and end in ends for start, end in spans)
