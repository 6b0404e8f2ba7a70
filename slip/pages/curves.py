"""Curves as SVG: axes with round numbers and a drawing, of many records the mean amid a band from lowest to highest.

Pure: points in, text out. A drawing for a page takes its colours from the page's style (classes c0, c1 ...) and holds
the numbers of its axes for the page's script; one that stands alone brings its colours with it. Which curves a page
shows is `slip.pages.compare`'s and `slip.pages.card`'s part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipeline.errors import InputError

Point = tuple[float, float]

COLOURS = ("#0b6e99", "#c2541b", "#3a7d34", "#8a4bb0", "#a07700", "#b3386b", "#4a5568", "#00808a")
"""One for each run, in turn; `slip.pages.frame` has lighter ones for dark screens."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""What tells run 8 from run 0, whose colour it has."""

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 10, 34
_STRETCHES = 240
# So few points are measurements of their own, zero-shot accuracies say, and each gets a mark.
_MARKED = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve."""

    number: int
    """Of its run, from 0: its colour."""
    label: str
    points: tuple[Point, ...]
    """x and y, x not falling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The points of one stretch of x."""

    x: float
    """Their mean."""
    low: float
    mean: float
    high: float


def stretches(points: Sequence[Point], count: int = _STRETCHES) -> list[Stretch]:
    """The points of `count` equal stretches of x, each in three numbers; stretches without points are left out.

    A spike of one record among thousands is still the highest of its stretch.
    """
    low, high = points[0][0], points[-1][0]
    width = (high - low) / count or 1.0
    groups: dict[int, list[Point]] = {}
    for point in points:
        groups.setdefault(min(int((point[0] - low) / width), count - 1), []).append(point)
    return [
        Stretch(
            x=sum(x for x, _ in group) / len(group),
            low=min(y for _, y in group),
            mean=sum(y for _, y in group) / len(group),
            high=max(y for _, y in group),
        )
        for group in groups.values()
    ]


def short(value: float) -> str:
    """A round number in few letters: 12500 -> "12.5k", 3e9 -> "3G", 0.00025 -> "2.5e-4", 0.5 -> "0.5"."""
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        digits, _, power = f"{value:.3e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= factor * (10 if unit == "k" else 1):
            return f"{value / factor:.6g}{unit}"
    return f"{value:.6g}"


def linear_marks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`: (0.3, 7.1) -> [0, 2, 4, 6, 8]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        # All values are one number: an axis around it.
        low, high = (low - abs(low) / 2, low + abs(low) / 2) if low else (0.0, 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        if last - first + 1 <= most:
            break
    return [round(number * step, 12 - math.floor(math.log10(step))) for number in range(first, last + 1)]


def log_marks(low: float, high: float) -> list[float]:
    """Powers of ten around two positive numbers, and 2 and 5 between few: (3, 40) -> [2, 5, 10, 20, 50]."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    # The logarithm of a number just below a power of ten is rounded to that power's.
    first -= float(f"1e{first}") > low
    last += float(f"1e{last}") < high
    if last - first <= 2:
        marks = [float(f"{factor}e{power}") for power in range(first, last + 1) for factor in (1, 2, 5)]
    else:
        every = math.ceil((last - first) / 6)
        marks = [float(f"1e{power}") for power in range(first, last + every, every)]
    start = max(number for number, mark in enumerate(marks) if mark <= low)
    stop = min(number for number, mark in enumerate(marks) if mark >= high)
    return marks[start : max(stop, start + 1) + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A stretch of numbers with marks; the first and the last mark are its ends."""

    marks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a number lies on it, 0 to 1."""
        low, high = self.marks[0], self.marks[-1]
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def axis(values: Sequence[float], *, log: bool = False) -> Axis:
    """An axis that holds all values."""
    low, high = min(values), max(values)
    if log and low <= 0:
        raise InputError(f"a logarithmic axis cannot hold {low:g}")
    return Axis(marks=tuple(log_marks(low, high) if log else linear_marks(low, high)), log=log)


def _frame(x_axis: Axis, y_axis: Axis, x_name: str, *, alone: bool) -> str:
    """Lines of height with their numbers, numbers below, and what is below."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    rule = ' stroke="#dddbd4"' if alone else ""
    parts = []
    for mark in y_axis.marks:
        y = bottom - y_axis.place(mark) * (bottom - _TOP)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"{rule}/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{short(mark)}</text>')
    for mark in x_axis.marks:
        x = _LEFT + x_axis.place(mark) * (right - _LEFT)
        # The last number would hang over the edge.
        anchor = "end" if x > right - 8 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{short(mark)}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _curve(one: Series, x_axis: Axis, y_axis: Axis, *, alone: bool) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def places(points: Sequence[Point]) -> list[str]:
        xs = (_LEFT + x_axis.place(x) * (right - _LEFT) for x, _ in points)
        ys = (bottom - y_axis.place(y) * (bottom - _TOP) for _, y in points)
        return [f"{x:.2f},{y:.2f}" for x, y in zip(xs, ys, strict=True)]

    colour = COLOURS[one.number % len(COLOURS)]
    dash = DASHES[one.number // len(COLOURS) % len(DASHES)]
    fill, look = (f' fill="{colour}"', f'stroke="{colour}" ') if alone else ("", "")
    look += f'stroke-dasharray="{dash}" ' if dash else ""
    points, extra = list(one.points), ""
    if len(points) > 2 * _STRETCHES:
        found = stretches(points)
        edge = places([(each.x, each.high) for each in found] + [(each.x, each.low) for each in reversed(found)])
        extra = f'<path class="band"{fill} fill-opacity=".25" d="M{" ".join(edge)}Z"/>'
        points = [(each.x, each.mean) for each in found]
    line = places(points)
    if len(points) <= _MARKED:
        pairs = (place.split(",") for place in line)
        extra = "".join(f'<circle cx="{x}" cy="{y}" r="2.6"{fill}/>' for x, y in pairs)
    name = f'class="run r{one.number} c{one.number % len(COLOURS)}"'
    title = f"<title>{escape(one.label)}</title>"
    return f'<g {name}>{title}{extra}<polyline {look}fill="none" stroke-width="1.6" points="{" ".join(line)}"/></g>'


def _legend(series: Sequence[Series]) -> str:
    """Names of the curves at the upper right, for a drawing that stands alone."""
    lines = []
    for row, one in enumerate(series):
        y, colour = _TOP + 12 + 16 * row, COLOURS[one.number % len(COLOURS)]
        lines.append(f'<text x="{_WIDTH - _RIGHT - 4}" y="{y}" text-anchor="end" fill="{colour}">')
        lines.append(f"{escape(one.label)}</text>")
    return "".join(lines)


def plot(series: Sequence[Series], *, title: str, x_name: str, log: bool = False, alone: bool = False) -> str:
    """One drawing of all curves that have points; "" where none has any, or none is positive where `log` asks for it.

    Args:
        log: a logarithmic height; points that are not positive are left out.
        alone: with colours and a background of its own, for a file.
    """
    kept = [
        Series(number=one.number, label=one.label, points=tuple((x, y) for x, y in one.points if y > 0 or not log))
        for one in series
    ]
    kept = [one for one in kept if one.points]
    if not kept:
        return ""
    x_axis = axis([x for one in kept for x, _ in one.points])
    y_axis = axis([y for one in kept for _, y in one.points], log=log)
    ends = f"{x_axis.marks[0]} {x_axis.marks[-1]} {y_axis.marks[0]} {y_axis.marks[-1]} {int(log)}"
    box = f"{_LEFT} {_WIDTH - _RIGHT} {_TOP} {_HEIGHT - _BOTTOM}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    if alone:
        head += f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">'
        head += '<rect width="100%" height="100%" fill="#fff"/>'
    else:
        kind = "log" if log else "linear"
        head += f'class="plot {kind}" data-ends="{ends}" data-box="{box}" aria-label="{escape(title)}">'
    drawn = "".join(_curve(one, x_axis, y_axis, alone=alone) for one in kept)
    if alone:
        drawn += _legend(kept)
    return f"{head}<title>{escape(title)}</title>{_frame(x_axis, y_axis, x_name, alone=alone)}{drawn}</svg>"
