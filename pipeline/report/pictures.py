"""The report's sections on pictures: sizes, files, years, licences, and some samples to look at.

Pure: counts in, HTML out. Every picture is shown with its photographer and licence, which the licences ask for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from pipeline.report.charts import (
    Bar,
    chart,
    columns,
    histogram,
    histogram_table,
    link,
    quantile,
    ranking,
    share,
    table,
    year_groups,
)
from pipeline.report.facts import Example, Pictures
from pipeline.report.words import license_demands

CLASSES_PER_OCTAVE = 8
"""How finely `Pictures.size_classes` are cut."""

_MOST_LICENSES = 20
_LABELLED_SIZES = 4
_TICKS_PX = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SIDE, _LEFT, _TOP, _BOTTOM = 400, 46, 8, 34


def _sizes(pictures: Pictures) -> str:
    total = pictures.size_classes.total()
    common = sorted(pictures.common_sizes.items(), key=lambda item: (-item[1], item[0]))
    (width, height), most = common[0]
    shapes = ", ".join(
        f"{share(pictures.shapes[name], total)} {word}"
        for name, word in (("landscape", "are wider than high"), ("portrait", "higher than wide"), ("square", "square"))
    )
    message = f"{shapes}. The most common size is {width:,} × {height:,} ({share(most, total)})."
    rows = [(f"{w:,} × {h:,}", f"{count:,}", share(count, total)) for (w, h), count in common[:30]]
    return chart(
        "Width and height",
        message,
        _size_drawing(pictures.size_classes, [size for size, _ in common[:_LABELLED_SIZES]]),
        table(("width × height", "samples", "share"), rows),
        note="Pixels on logarithmic scales; the larger a dot, the more samples of about that size.",
    )


@dataclass(frozen=True, slots=True)
class _Axes:
    """Two logarithmic axes of equal scale; lengths are classes, `CLASSES_PER_OCTAVE` to an octave."""

    low: float
    high: float

    def holds(self, *lengths: float) -> bool:
        return all(self.low <= length <= self.high for length in lengths)

    def xy(self, width: float, height: float) -> tuple[float, float]:
        scale = (_SIDE - _TOP) / (self.high - self.low)
        return _LEFT + (width - self.low) * scale, _SIDE - (height - self.low) * scale


def _size_drawing(classes: Counter[tuple[int, int]], labelled: Sequence[tuple[int, int]]) -> str:
    """Dots on logarithmic axes; the diagonal is where squares are."""
    lengths: Counter[int] = Counter()
    for (width, height), count in classes.items():
        lengths[width] += count
        lengths[height] += count
    # One length in a thousand may lie outside: a single panorama should not shrink all others to a heap.
    axes = _Axes(quantile(lengths, 0.001) - 4, quantile(lengths, 0.999) + 7)
    right = _LEFT + _SIDE - _TOP
    parts = [f'<line class=diag x1="{_LEFT}" y1="{_SIDE}" x2="{right}" y2="{_TOP}"/>']
    for pixels in _TICKS_PX:
        at = CLASSES_PER_OCTAVE * (pixels.bit_length() - 1)
        if axes.holds(at):
            x, y = axes.xy(at, at)
            parts.append(f'<line class=grid x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_SIDE}"/>')
            parts.append(f'<line class=grid x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{x:.1f}" y="{_SIDE + 17}" text-anchor="middle">{pixels}</text>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{pixels}</text>')
    top = max(classes.values())
    for (width, height), count in sorted(classes.items(), key=lambda item: (-item[1], item[0])):
        if axes.holds(width, height) and count * 2000 >= top:
            x, y = axes.xy(width, height)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{max(24 * (count / top) ** 0.5, 1.2):.1f}"/>')
    parts += _size_labels(axes, labelled, 24 / top**0.5, classes)
    parts.append(f'<text x="{right - 4}" y="{_SIDE - 8}" text-anchor="end">width →</text>')
    parts.append(f'<text x="{_LEFT + 6}" y="{_TOP + 10}">↑ height</text>')
    return f'<svg class=sizes viewBox="0 0 {_LEFT + _SIDE + 12} {_SIDE + _BOTTOM}">{"".join(parts)}</svg>'


def _size_labels(
    axes: _Axes, sizes: Sequence[tuple[int, int]], scale: float, classes: Counter[tuple[int, int]]
) -> list[str]:
    """Width and height beside the dots of the commonest sizes, as far as they do not overlap."""
    taken: list[tuple[float, float]] = []
    parts = []
    for width, height in sizes:
        at = [round(CLASSES_PER_OCTAVE * math.log2(max(pixels, 1))) for pixels in (width, height)]
        x, y = axes.xy(*at)
        radius = scale * classes[at[0], at[1]] ** 0.5
        x, y = (x + radius + 5, y + 4) if width >= height else (x - 26, y - radius - 7)
        if axes.holds(*at) and all(abs(y - other) > 14 or abs(x - there) > 80 for there, other in taken):
            taken.append((x, y))
            parts.append(f'<text class=big x="{x:.1f}" y="{y:.1f}">{width} × {height}</text>')
    return parts


def _shorter_side(counts: Counter[int]) -> str:
    low, middle = quantile(counts, 0.05), quantile(counts, 0.5)
    message = (
        f"Half of the pictures have a shorter side of {middle:,} pixels or less, 5 % of {low:,} or less. Training at "
        "224 pixels enlarges what is smaller."
    )
    return chart("Shorter side", message, histogram(counts, "pixels"), histogram_table(counts, "pixels"))


def _aspects(counts: Counter[int]) -> str:
    """Longer over shorter side in steps of a tenth."""
    tenths = Counter[str]()
    order = [f"{1 + i / 10:.1f}" for i in range(11)] + ["> 2"]
    for hundredths, count in counts.items():
        tenths["> 2" if hundredths > 205 else f"{max(round(hundredths / 10), 10) / 10:.1f}"] += count
    total = counts.total()
    middle = quantile(counts, 0.5) / 100
    message = f"Longer side over shorter side; half of the pictures are at {middle:.2f} or less."
    drawing = columns(order, [("kept", [tenths[name] / max(total, 1) for name in order])], percent=True)
    rows = [(name, f"{tenths[name]:,}", share(tenths[name], total)) for name in order]
    return chart("Aspect ratio", message, drawing, table(("aspect", "samples", "share"), rows))


def _files(counts: Counter[int]) -> str:
    middle, high = quantile(counts, 0.5), quantile(counts, 0.95)
    message = f"Half of the pictures' files have {middle:,} kB or less, 5 % more than {high:,} kB."
    return chart("File size", message, histogram(counts, "kB"), histogram_table(counts, "kB"))


def _years(years: Counter[str]) -> str:
    groups = year_groups(years)
    labels = list(dict.fromkeys(groups[year] for year in sorted(years, key=lambda year: (not year, year))))
    sums: Counter[str] = Counter()
    for year, count in years.items():
        sums[groups[year]] += count
    total = years.total()
    top = max(labels, key=lambda label: sums[label])
    message = f"By the cameras' clocks; most photographs are from {top} ({share(sums[top], total)})."
    heights = columns(labels, [("kept", [sums[label] / max(total, 1) for label in labels])], percent=True)
    drawing = f"<div class=dense>{heights}</div>"
    rows = [(label, f"{sums[label]:,}", share(sums[label], total)) for label in labels]
    return chart("Year taken", message, drawing, table(("year", "samples", "share"), rows))


def pictures_section(pictures: Pictures) -> str:
    """Sizes, aspects, files and years."""
    if not pictures.size_classes.total():
        return "<p class=lead>There are no samples.</p>"
    right = _shorter_side(pictures.shorter_side) + _aspects(pictures.aspects)
    below = _files(pictures.kilobytes) + _years(pictures.years)
    return f"<div class=panels>{_sizes(pictures)}<div class=stack>{right}</div>{below}</div>"


def licenses_section(licenses: Counter[tuple[str, str]]) -> str:
    """Each licence with its link, how many samples have it, and what it demands."""
    total = licenses.total()
    ranked = sorted(licenses.items(), key=lambda item: (-item[1], item[0]))
    lines = []
    for (name, url), count in ranked[:_MOST_LICENSES]:
        demands = license_demands(url)
        said = ["see its text"] if demands is None else demands or ["no conditions known"]
        chips = "".join(f"<span>{escape(demand)}</span>" for demand in said)
        bar = f"<i class=kept style='width:{100 * count / ranked[0][1]:.2f}%'></i>"
        lines.append(
            f"<li><span class=name>{link(url, name or 'not stated')}<span class=chips>{chips}</span></span>"
            f"<span class=num><b>{count:,}</b><em>{share(count, total)}</em></span><span class=track>{bar}</span></li>"
        )
    more = sum(count for _, count in ranked[_MOST_LICENSES:])
    rest = ranking([Bar(name="other licences", count=more, said=f"{more:,}", share=share(more, total))]) if more else ""
    return f"<div class=panel><ul class=ranking>{''.join(lines)}</ul>{rest}</div>"


def samples_section(examples: Iterable[Example], *, even: bool = False) -> str:
    """Pictures with caption, photographer and licence; `even`: in rows, cut to one shape."""
    figures = []
    for example in examples:
        by = link(example.page_url, example.user or "photographer not stated")
        terms = link(example.license_url, example.license or "licence not stated")
        size = f"{example.width:,} × {example.height:,}"
        figures.append(
            f'<figure><img src="{escape(example.thumbnail)}" width="{example.width}" height="{example.height}" '
            f'alt="Sample {escape(example.key)}, {size} pixels; its caption follows" loading=lazy decoding=async>'
            f"<figcaption><p dir=auto>{escape(example.caption)}</p>"
            f"<small><bdi>{by}</bdi> · {terms} · {size}</small></figcaption></figure>"
        )
    return f"<div class='samples{' even' if even else ''}'>{''.join(figures)}</div>"
