"""Numbers made visible for the report: bars, columns, strips and the tables behind them, as HTML.

Pure: counts in, text out. Charts are boxes and not drawings, so that their text stays as large on a telephone as on a
wall; each carries its message as a text for those who cannot see it, and a table with its numbers. What is shown
where is the business of the sections, how it looks that of `report_style`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_MAX_YEARS = 16
_MOST_TICKS = 6


def format_bytes(num_bytes: float) -> str:
    """1234567 -> "1.2 MB"."""
    value, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


def compact(count: float) -> str:
    """A count in few letters: 7 -> "7", 12345 -> "12.3 k", 14689580 -> "14.7 M"."""
    value, unit = float(count), ""
    for larger in (" k", " M", " G"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    if not unit and value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}{unit}" if value < 100 else f"{value:.0f}{unit}"


def share(part: float, whole: float) -> str:
    """(1, 3) -> "33.3 %"; a little that is not nothing never reads as 0 %, a lot that is not all never as 100 %."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if part and percent < 0.05:
        return "< 0.01 %" if percent < 0.01 else f"{percent:.2f} %"
    if part < whole and percent >= 99.95:
        return "> 99.99 %" if percent > 99.99 else f"{percent:.2f} %"
    return "100 %" if part == whole else "0 %" if not part else f"{percent:.1f} %"


def quantile(counts: Counter[int], portion: float) -> int:
    """The smallest value with at least this portion of the samples at or below it; 0 when there are none."""
    needed, seen = portion * counts.total(), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= needed:
            return value
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """A histogram: bins of one round width, from nought."""

    width: int
    heights: list[int]
    is_open: bool
    """Whether the last bin also holds what lies above it."""

    def label(self, number: int) -> str:
        """ "0–9", "10 and more", or "7" where bins hold one value."""
        low = number * self.width
        if self.is_open and number == len(self.heights) - 1:
            return f"{low:,} and more"
        return f"{low:,}" if self.width == 1 else f"{low:,}–{low + self.width - 1:,}"


def bins(counts: Counter[int], most: int = 40) -> Bins:
    """Bins up to the 99th percentile, at most `most` + 1; what lies above goes into the last one.

    bins(Counter({3: 2, 14: 1}), 2) -> Bins(width=10, heights=[2, 1], is_open=False)
    """
    top = max(1, quantile(counts, 0.99))
    width = next(step * 10**power for power in range(12) for step in (1, 2, 5) if step * 10**power * most > top)
    heights = [0] * (top // width + 1)
    for value, count in counts.items():
        heights[min(value // width, len(heights) - 1)] += count
    return Bins(width=width, heights=heights, is_open=max(counts, default=0) >= len(heights) * width)


def year_groups(counts: Counter[str]) -> dict[str, str]:
    """Label of each year: itself, or "before Y" when it lies long before most; "" becomes "unknown".

    A handful of mis-set cameras say 1904; without this the chart would have a century of empty columns.
    """
    known = sorted(year for year in counts if year)
    groups = {"": "unknown"}
    if not known:
        return groups
    last = str(quantile(Counter({int(y): counts[y] for y in known}), 0.999))
    first = max(int(known[0]), int(last) - _MAX_YEARS + 1)
    for year in known:
        groups[year] = f"before {first}" if int(year) < first else f"after {last}" if year > last else year
    return groups


def ticks(top: float) -> list[float]:
    """Two to five round values from nought to at least `top`: 0.83 -> [0, 0.5, 1.0], 7 -> [0, 2, 4, 6, 8]."""
    if top <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top))
    step = next(s * power for s in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0) if math.ceil(top / (s * power) - 1e-9) <= 4)
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; all but the first column are numbers."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in heads)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def chart(title: str, message: str, drawing: str, numbers: str = "", *, note: str = "", wide: bool = False) -> str:
    """A titled chart: `message` says in words what the drawing shows, `note` stands under it."""
    return (
        f"<figure class='panel{' wide' if wide else ''}'><figcaption><h3>{escape(title)}</h3>"
        f"<p>{escape(message)}</p></figcaption>"
        f'<div role=img aria-label="{escape(f"Chart. {title}: {message}")}">{drawing}</div>'
        + (f"<p class=note>{escape(note)}</p>" if note else "")
        + (f"<details><summary>Numbers</summary>{numbers}</details>" if numbers else "")
        + "</figure>"
    )


def axes(area: str, marks: Sequence[float], labels: str, *, percent: bool) -> str:
    """What columns and lines stand in: height lines with their values at the left, labels below."""
    top = marks[-1]
    said = [(value, f"{100 * value:.4g} %" if percent else compact(value)) for value in marks]
    lines = "".join(f'<hr style="bottom:{100 * value / top:.2f}%">' for value, _ in said)
    heights = "".join(f'<span style="bottom:{100 * value / top:.2f}%">{text}</span>' for value, text in said)
    drawn = f"<div class=y>{heights}</div><div class=area>{lines}{area}</div><div class=x>{labels}</div>"
    return f"<div class=plot>{drawn}</div>"


def _column(title: str, parts: Sequence[tuple[str, float]], top: float) -> str:
    segments = "".join(f'<s class={kind} style="height:{100 * v / top:.3f}%"></s>' for kind, v in parts if v)
    return f'<i title="{escape(title)}">{segments}</i>'


def histogram(counts: Counter[int], unit: str) -> str:
    """Columns for numbers, with a mark at the median."""
    found = bins(counts)
    total, num = counts.total(), len(found.heights)
    marks = ticks(max(found.heights, default=0) / max(total, 1))
    drawn = []
    for i, count in enumerate(found.heights):
        kind = "kept2" if found.is_open and i == num - 1 else "kept"
        said = f"{found.label(i)} {unit}: {count:,} ({share(count, total)})"
        drawn.append(_column(said, [(kind, count / max(total, 1))], marks[-1]))
    middle = quantile(counts, 0.5)
    left = 100 * min((middle / found.width + (0.5 if found.width == 1 else 0)) / num, 1)
    side = "before" if left > 60 else "after"
    mark = f'<b class="mark {side}" style="left:{left:.2f}%"><span>median {middle:,}</span></b>'
    every = next(k for k in (1, 2, 4, 5, 10, 20, 50) if num / k <= _MOST_TICKS)
    centre = 0.5 if found.width == 1 else 0.0
    labelled = {i: f"{i * found.width:,}" for i in range(0, num, every) if not found.is_open or num - 1 - i > num // 12}
    if found.is_open:
        labelled[num - 1] = f"{(num - 1) * found.width:,}+"
    labels = "".join(
        f'<span style="left:{100 * (i + centre) / num:.2f}%">{text}</span>' for i, text in labelled.items()
    )
    return axes(f"<div class=cols>{''.join(drawn)}</div>{mark}", marks, labels, percent=True)


def histogram_table(counts: Counter[int], unit: str) -> str:
    """The numbers behind `histogram`."""
    found, total = bins(counts), counts.total()
    rows = [(found.label(i), f"{count:,}", share(count, total)) for i, count in enumerate(found.heights)]
    return table((unit, "samples", "share"), rows)


def columns(
    labels: Sequence[str], parts: Sequence[tuple[str, Sequence[float]]], *, percent: bool, small: bool = False
) -> str:
    """A column for each label, made of stacked parts (a style's name and a value for each label)."""
    sums = [sum(values[i] for _, values in parts) for i in range(len(labels))]
    marks = ticks(max(sums, default=0))
    if small:
        marks = [marks[0], marks[-1]]
    drawn = []
    for i, label in enumerate(labels):
        said = f"{100 * sums[i]:.1f} %" if percent else f"{sums[i]:,.0f}"
        drawn.append(_column(f"{label}: {said}", [(kind, values[i]) for kind, values in parts], marks[-1]))
    below = []
    for i, label in enumerate(labels):
        short = label.replace("before ", "< ").replace("after ", "> ").replace("unknown", "?")
        # On a narrow screen there is room for every third.
        kind = "" if i % 3 == 0 else " class=minor"
        below.append(f'<span{kind} style="left:{100 * (i + 0.5) / len(labels):.2f}%">{escape(short)}</span>')
    drawing = axes(f"<div class=cols>{''.join(drawn)}</div>", marks, "".join(below), percent=percent)
    return f"<div class=small>{drawing}</div>" if small else drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of a ranking."""

    name: str
    count: float
    said: str
    """The number as it is shown."""
    share: str = ""
    note: str = ""
    href: str = ""


def ranking(bars: Sequence[Bar], kind: str = "kept") -> str:
    """Horizontal bars with their numbers, the longest as wide as there is room."""
    top = max((bar.count for bar in bars), default=0) or 1
    lines = []
    for bar in bars:
        note = f"<small>{escape(bar.note)}</small>" if bar.note else ""
        portion = f"<em>{escape(bar.share)}</em>" if bar.share else ""
        lines.append(
            f"<li><span class=name>{link(bar.href, bar.name)}{note}</span>"
            f"<span class=num><b>{escape(bar.said)}</b>{portion}</span>"
            f'<span class=track><i class={kind} style="width:{100 * bar.count / top:.2f}%"></i></span></li>'
        )
    return f"<ul class=ranking>{''.join(lines)}</ul>"


def strip(parts: Sequence[tuple[str, float, str, str]]) -> str:
    """One bar cut into parts (style, value, name, number as shown), named below in the same order."""
    total = sum(value for _, value, _, _ in parts) or 1
    segments = "".join(f'<i class={kind} style="flex:{value / total:.5f}"></i>' for kind, value, _, _ in parts if value)
    return f"<div class=strip>{segments}</div>{keys([(kind, name, said) for kind, _, name, said in parts])}"


def keys(parts: Sequence[tuple[str, str, str]]) -> str:
    """What colours mean: style, name and number (or "") of each."""
    names = "".join(f"<li><i class={kind}></i>{escape(name)} <b>{escape(said)}</b></li>" for kind, name, said in parts)
    return f"<ul class=keys>{names}</ul>"


def link(url: str, text: str) -> str:
    """A link where `url` is one of the web's; anything else (javascript:, say) leaves the bare text."""
    if not url.startswith(("http://", "https://")):
        return escape(text)
    return f'<a href="{escape(url)}" rel="noopener noreferrer">{escape(text)}</a>'
