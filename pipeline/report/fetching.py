"""The report's section on downloading: losses by year, sources, pictures that came twice, and how fast it went.

Pure: counts in, HTML out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from pipeline.fetch.timing import Timing, busy_spans, pictures_per_s
from pipeline.manifest import Manifest
from pipeline.records import Reason
from pipeline.report.charts import (
    Bar,
    axes,
    chart,
    columns,
    compact,
    format_bytes,
    keys,
    link,
    ranking,
    share,
    table,
    ticks,
    year_groups,
)
from pipeline.report.facts import Duplicate, Fetched
from pipeline.report.words import SOURCES, lower_first, reason_name

_RATE_STEPS = 80


def _losses(fetched: Fetched) -> str:
    groups = year_groups(fetched.asked_by_year)
    years = sorted((year for year, count in fetched.asked_by_year.items() if count), key=lambda year: (not year, year))
    labels = list(dict.fromkeys(groups[year] for year in years))
    asked, gone, lost = (
        _grouped(counts, groups) for counts in (fetched.asked_by_year, fetched.gone_by_year, fetched.lost_by_year)
    )
    total, total_gone, total_lost = asked.total(), gone.total(), lost.total()
    message = (
        f"{share(total_gone, total)} of the photographs asked for are gone (deleted or private), "
        f"{share(total_lost - total_gone, total)} were lost otherwise (errors, damage, size)."
    )
    parts = [
        ("lost", [gone[label] / asked[label] for label in labels]),
        ("lost2", [(lost[label] - gone[label]) / asked[label] for label in labels]),
    ]
    drawing = keys([("lost", "gone", ""), ("lost2", "lost otherwise", ""), ("filter", "asked for", "")])
    drawing += columns(labels, parts, percent=True)
    drawing += columns(labels, [("filter", [float(asked[label]) for label in labels])], percent=False, small=True)
    rows = [
        (label, f"{asked[label]:,}", f"{gone[label]:,}", share(gone[label], asked[label]), f"{lost[label]:,}")
        for label in labels
    ]
    return chart(
        "Dead links by year taken",
        message,
        drawing,
        table(("year", "asked for", "gone", "share gone", "lost in all"), rows),
        wide=True,
    )


def _grouped(counts: Counter[str], groups: dict[str, str]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for year, count in counts.items():
        sums[groups[year]] += count
    return sums


def _sources(fetched: Fetched) -> str:
    total = fetched.came_from.total()
    ranked = sorted(fetched.asked_of, key=lambda name: (-fetched.came_from[name], name))
    bars = []
    rows = []
    for source in ranked:
        came, asked = fetched.came_from[source], fetched.asked_of[source]
        refused = sorted(
            ((reason, count) for (name, reason), count in fetched.refused_by.items() if name == source),
            key=lambda item: (-item[1], item[0]),
        )
        most = ", ".join(f"{lower_first(reason_name(reason))} {count:,}" for reason, count in refused[:3])
        note = f"asked for {asked:,}" + (f"; did not give: {most}" if most else "")
        bars.append(
            Bar(name=SOURCES.get(source, source), count=came, said=f"{came:,}", share=share(came, total), note=note)
        )
        rows.append((SOURCES.get(source, source), f"{asked:,}", f"{came:,}", share(came, asked)))
    extra = fetched.asked_of.total() - fetched.asked_by_year.total()
    message = "Where the pictures came from at last."
    if extra > 0:
        message += f" {extra:,} times the next source was asked because one had not given the picture."
    return chart("Sources", message, ranking(bars), table(("source", "asked", "gave", "share"), rows))


def _duplicates(manifest: Manifest, examples: Sequence[Duplicate]) -> str:
    count = int(manifest.funnel["rejected"].get(str(Reason.DUPLICATE_IMAGE), 0))
    if not count:
        kept = manifest.settings.get("keep_duplicates")
        said = "They were kept and not counted." if kept else "No two samples have the same picture, byte for byte."
        return f"<figure class=panel><h3>Same picture twice</h3><p class=said>{said}</p></figure>"
    reached = count + manifest.num_samples
    said = (
        f"{count:,} pictures ({share(count, reached)} of the good ones) were left out because an earlier sample has "
        "the same bytes."
    )
    lines = "".join(
        f"<tr><td>{link(found.page_url, found.key)}</td><td>{escape(found.detail)}</td></tr>" for found in examples
    )
    listed = f"<table class=twice><thead><tr><th>left out</th><th>why</th></tr></thead><tbody>{lines}</tbody></table>"
    return (
        f"<figure class=panel><h3>Same picture twice</h3><p class=said>{said}</p>{listed if examples else ''}</figure>"
    )


def _joined(timings: Sequence[Timing]) -> tuple[list[tuple[float, float, float]], list[float], float]:
    """Spans (begin, end, pictures per second) on a clock that stands still in long pauses; pauses; the clock's end.

    Times count from nought, when the first download began.
    """
    shifts, pauses, clock = [], [], 0.0
    for start, end in busy_spans(timings):
        shifts.append((start, end, clock - start))
        clock += end - start
        pauses.append(clock)
    placed = []
    for timing in timings:
        shift = next(s for start, end, s in shifts if start <= timing.ended_unix <= end)
        begin, end = timing.started_unix + shift, timing.ended_unix + shift
        placed.append((begin, end, timing.pictures / max(end - begin, 1e-9)))
    return placed, pauses[:-1], clock


def rates(timings: Sequence[Timing], steps: int) -> tuple[list[float], list[float], float]:
    """Pictures per second in equal steps of busy time, where pauses were cut out (0 to 1), and the busy seconds.

    A unit's pictures count as spread evenly over the time it took.
    """
    placed, pauses, total_s = _joined(timings)
    step_s = total_s / steps
    sums = [0.0] * steps
    for begin, end, per_s in placed:
        first, last = int(begin / step_s), min(int(end / step_s), steps - 1)
        for i in range(first, last + 1):
            sums[i] += per_s * max(min(end, (i + 1) * step_s) - max(begin, i * step_s), 0.0)
    return [count / step_s for count in sums], [pause / total_s for pause in pauses], total_s


def _duration(seconds: float) -> str:
    """90 -> "1.5 min", 7200 -> "2 h", 200000 -> "2.3 days"."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _clock_labels(total_s: float) -> str:
    """Round times below the chart."""
    size, unit = next(
        (s, u) for s, u in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if total_s >= 2 * s or s == 1
    )
    marks = [mark for mark in ticks(total_s / size) if mark * size <= total_s]
    return "".join(
        f'<span style="left:{100 * mark * size / total_s:.2f}%">{f"{mark:g} {unit}" if mark else "0"}</span>'
        for mark in marks
    )


def _rate(timings: Sequence[Timing]) -> str:
    mean = pictures_per_s(timings)
    if mean is None:
        return ""
    steps = min(_RATE_STEPS, max(4, 2 * len(timings)))
    heights, pauses, total_s = rates(timings, steps)
    marks = ticks(max(heights))
    points = " ".join(
        f"{100 * i / steps:.2f},{100 - 100 * height / marks[-1]:.2f} {100 * (i + 1) / steps:.2f},"
        f"{100 - 100 * height / marks[-1]:.2f}"
        for i, height in enumerate(heights)
    )
    num_bytes = sum(timing.num_bytes for timing in timings)
    message = (
        f"{sum(timing.pictures for timing in timings):,} pictures ({format_bytes(num_bytes)}) in {_duration(total_s)}: "
        f"{compact(mean)} pictures and {format_bytes(num_bytes / total_s)} a second."
    )
    cuts = "".join(f'<span class=pause style="left:{100 * pause:.2f}%"></span>' for pause in pauses)
    drawing = axes(
        f'<svg class=rate viewBox="0 0 100 100" preserveAspectRatio="none"><path d="M0,100 L{points} 100,100"/></svg>'
        f'{cuts}<div class=mean style="bottom:{100 * mean / marks[-1]:.2f}%"><span>mean {compact(mean)}</span></div>',
        marks,
        _clock_labels(total_s),
        percent=False,
    )
    note = "Pictures per second over the time spent downloading."
    if pauses:
        note += f" Dotted lines: pauses, cut out ({len(pauses)})."
    rows = [(_duration(total_s * i / steps), f"{height:,.1f}") for i, height in enumerate(heights)]
    return chart("Download rate", message, drawing, table(("after", "pictures/s"), rows), note=note, wide=True)


def fetching_section(manifest: Manifest, fetched: Fetched | None, timings: Sequence[Timing]) -> str:
    """Losses by year, sources, duplicates, rate: whatever is known of them."""
    panels = []
    if fetched is not None and fetched.asked_by_year:
        panels.append(_losses(fetched))
        if fetched.asked_of:
            panels.append(_sources(fetched))
    panels.append(_duplicates(manifest, fetched.duplicates if fetched is not None else ()))
    if timings:
        panels.append(_rate(timings))
    return f"<div class=panels>{''.join(panels)}</div>"
