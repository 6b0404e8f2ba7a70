"""Curves: nothing that sticks out is thinned away, axes hold all values, and a drawing says what the numbers say."""

from __future__ import annotations

import itertools
import math
import random
import re
import xml.etree.ElementTree as ET
from statistics import fmean

import pytest
from hypothesis import example, given, settings
from hypothesis.strategies import floats, integers

from pipeline.errors import InputError
from slip.pages.curves import Point, Series, axis, linear_marks, log_marks, plot, short, stretches

SVG = "{http://www.w3.org/2000/svg}"
sizes = floats(min_value=1e-8, max_value=1e12)


def noisy(count: int, seed: int) -> list[Point]:
    draw = random.Random(seed)
    x, points = 0.0, []
    for _ in range(count):
        x += draw.choice((0.0, 1.0, 1.0, 50.0))
        points.append((x, draw.gauss(0, 1)))
    return points


@given(count=integers(1, 400), wanted=integers(1, 30), seed=integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_stretches_keep_what_sticks_out(count: int, wanted: int, seed: int) -> None:
    points = noisy(count, seed)
    found = stretches(points, wanted)
    width = (points[-1][0] - points[0][0]) / wanted or 1.0
    # Each stretch looked at by itself.
    expected = []
    for number in range(wanted):
        group = [(x, y) for x, y in points if min(int((x - points[0][0]) / width), wanted - 1) == number]
        if group:
            ys = [y for _, y in group]
            expected.append((fmean(x for x, _ in group), min(ys), fmean(ys), max(ys)))
    assert [(one.low, one.high) for one in found] == [(low, high) for _, low, _, high in expected]
    assert [one.x for one in found] == pytest.approx([x for x, *_ in expected])
    assert [one.mean for one in found] == pytest.approx([mean for _, _, mean, _ in expected])


@given(low=floats(-1e9, 1e9), size=sizes)
def test_linear_marks_are_round_and_hold_the_values(low: float, size: float) -> None:
    marks = linear_marks(low, low + size)
    step = marks[1] - marks[0]
    assert 2 <= len(marks) <= 6
    assert marks[0] <= low + 1e-6 * step
    assert marks[-1] >= low + size - 1e-6 * step
    if size > 1e-6 * abs(low):
        assert all(math.isclose(b - a, step, rel_tol=1e-6) for a, b in itertools.pairwise(marks))
        digits = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert any(math.isclose(digits, one, rel_tol=1e-6) for one in (1, 2, 2.5, 5))


@given(low=sizes, factor=floats(1, 1e12))
@example(low=math.nextafter(1e-3, 0), factor=1.0)
@example(low=1.0, factor=math.nextafter(1e3, 1e4))
def test_logarithmic_marks_hold_the_values(low: float, factor: float) -> None:
    marks = log_marks(low, low * factor)
    assert 2 <= len(marks) <= 8
    assert marks == sorted(set(marks))
    assert marks[0] <= low
    assert marks[-1] >= low * factor


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0.3, 7.1, [0, 2, 4, 6, 8]), (0, 60, [0, 20, 40, 60]), (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (5, 5, [2, 4, 6, 8])],
)
def test_marks_of_some_axes(low: float, high: float, marks: list[float]) -> None:
    assert linear_marks(low, high) == pytest.approx(marks)


def test_numbers_are_short() -> None:
    values = (12500, 3e9, 0.00025, 0.5, 0, -4, 9999, 1e15, 2e-6)
    assert [short(value) for value in values] == [
        *("12.5k", "3G", "2.5e-4", "0.5", "0", "-4", "9999", "1e15", "2e-6"),
    ]


def test_a_logarithmic_axis_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(InputError, match="cannot hold 0"):
        axis([0.0, 1.0], log=True)


def drawn(svg: str, first: int | None = None) -> list[list[Point]]:
    """The curves of a drawing, or the first of them, told from it as a reader with a ruler would."""
    tree = ET.fromstring(svg)
    x0, x1, y0, y1, log = (float(part) for part in tree.attrib["data-ends"].split())
    left, right, top, bottom = (float(part) for part in tree.attrib["data-box"].split())
    curves = []
    for line in tree.iter(f"{SVG}polyline"):
        curve = []
        for pair in line.attrib["points"].split():
            across, down = (float(part) for part in pair.split(","))
            height = (bottom - down) / (bottom - top)
            y = y0 * (y1 / y0) ** height if log else y0 + height * (y1 - y0)
            curve.append((x0 + (across - left) / (right - left) * (x1 - x0), y))
        curves.append(curve)
    return curves[:first]


@pytest.mark.parametrize("log", [False, True])
def test_a_drawing_shows_the_numbers(log: bool) -> None:
    first = tuple((float(x), 9.0 / (x + 1)) for x in range(20))
    second = ((3.0, 0.5), (30.0, 8.0))
    svg = plot(
        [Series(number=0, label="a", points=first), Series(number=1, label="b & <c>", points=second)],
        title="Loss",
        x_name="steps",
        log=log,
    )
    curves = drawn(svg)
    assert [len(curve) for curve in curves] == [20, 2]
    for curve, points in zip(curves, (first, second), strict=True):
        for (x, y), (true_x, true_y) in zip(curve, points, strict=True):
            assert x == pytest.approx(true_x, abs=1e-2)
            assert y == pytest.approx(true_y, rel=2e-3, abs=1e-3)
    assert [title.text for title in ET.fromstring(svg).iter(f"{SVG}title")] == ["Loss", "a", "b & <c>"]


def test_a_spike_of_one_record_among_many_is_drawn() -> None:
    points = [(float(x), 1.0) for x in range(50_000)]
    points[31_234] = (31_234.0, 40.0)
    svg = plot([Series(number=0, label="a", points=tuple(points))], title="t", x_name="steps")
    (curve,) = drawn(svg)
    assert len(curve) <= 240
    # The line is the mean of some 208 records; the band reaches to the spike.
    assert max(y for _, y in curve) == pytest.approx(1 + 39 / 208, abs=0.02)
    (band,) = drawn(re.sub(r'<path class="band"([^>]*) d="M([^"]*)Z"/>', r'<polyline\1 points="\2"/>', svg), first=1)
    x, y = max(band, key=lambda point: point[1])
    assert x == pytest.approx(31_234, abs=210)
    assert y == pytest.approx(40, abs=0.01)
    assert min(y for _, y in band) == pytest.approx(1, abs=0.01)


def test_what_has_no_logarithm_is_left_out() -> None:
    def svg(*points: Point) -> str:
        return plot([Series(number=0, label="a", points=points)], title="t", x_name="steps", log=True)

    assert [len(curve) for curve in drawn(svg((1, 0.0), (2, 3.0), (3, -1.0)))] == [1]
    assert svg((1, 0.0)) == ""
    assert svg() == ""


def test_a_drawing_for_a_file_stands_alone() -> None:
    many = [Series(number=i, label=f"run {i}", points=((0, i), (1, 2.0))) for i in range(10)]
    tree = ET.fromstring(plot(many, title="t", x_name="steps", alone=True))
    lines = list(tree.iter(f"{SVG}polyline"))
    looks = {(line.attrib["stroke"], line.attrib.get("stroke-dasharray")) for line in lines}
    assert len(looks) == 10
    assert {f"run {i}" for i in range(10)} <= {text.text for text in tree.iter(f"{SVG}text")}
