"""What `slip inspect` says: data sets, the settings of a run over them, and how well their samples are mixed.

Pure: manifests, a plan and measures in; a text for people, or plain data for JSON, out. All sizes are bytes in decimal
units (1 GB = 10^9 bytes).
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slip.data.plan import Plan
from slip.data.sets import Mix
from slip.data.shuffle_quality import Measure, ShuffleQuality

Rows = list[tuple[str, ...]]

_WIDTH = 110

# How far from random a measure may be and still pass for it: what chance alone moves is far less at a batch of
# thousands, and what a person would care about is more.
_FEW_PLACES = 0.8
_MANY_TIMES = 1.5
_SOME_NEIGHBOURS = 0.01
_TREND = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """One data set in numbers."""

    manifest: str
    digest: str
    name: str
    variant: str
    samples: int
    shards: int
    bytes: int
    bytes_per_sample: float
    samples_per_shard_min: int
    samples_per_shard_median: float
    samples_per_shard_max: int
    share: float
    """Of a batch."""
    rows: int
    """Rows of metadata it was selected from."""
    rejected: dict[str, int]
    """Rows that did not become a sample, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run with these settings needs."""

    seed: int
    global_batch: int
    lanes: int
    """Of the data set with the most."""
    shuffle_window: int
    steps_per_epoch: float
    held_samples: int
    """Samples of the windows in use, over all processes."""
    held_bytes: int


def set_facts(mix: Mix) -> list[SetFacts]:
    """The numbers of every data set of a mix."""
    found = []
    for url, manifest, weight in zip(mix.urls, mix.manifests, mix.weights, strict=True):
        counts = [shard.num_samples for shard in manifest.shards]
        found.append(
            SetFacts(
                manifest=url,
                digest=manifest.sha256,
                name=manifest.name,
                variant=manifest.variant,
                samples=manifest.num_samples,
                shards=len(counts),
                bytes=manifest.num_bytes,
                bytes_per_sample=manifest.num_bytes / manifest.num_samples,
                samples_per_shard_min=min(counts),
                samples_per_shard_median=statistics.median(counts),
                samples_per_shard_max=max(counts),
                share=float(weight),
                rows=manifest.funnel["rows"],
                rejected=dict(manifest.funnel["rejected"]),
            )
        )
    return found


def run_facts(mix: Mix, plan: Plan) -> RunFacts:
    """The numbers of a run: every lane holds one window of samples, as large as they are on average."""
    held = [min(order.lanes * plan.shuffle_window, order.num_samples) for order in plan.orders]
    sizes = [manifest.num_bytes / manifest.num_samples for manifest in mix.manifests]
    return RunFacts(
        seed=plan.seed,
        global_batch=plan.global_batch,
        lanes=max(order.lanes for order in plan.orders),
        shuffle_window=plan.shuffle_window,
        steps_per_epoch=plan.steps_per_epoch,
        held_samples=sum(held),
        held_bytes=round(sum(number * size for number, size in zip(held, sizes, strict=True))),
    )


def _size(num_bytes: float) -> str:
    """15000000 -> "15.0 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 999.95:
            return f"{num_bytes:.0f} bytes" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def _number(value: float) -> str:
    """As many digits as tell something: 3955.3 -> "3,955", 0.02730 -> "0.027"."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def _counted(number: float, word: str) -> str:
    shown = f"{number:,.0f}"
    return f"{shown} {word}" if shown == "1" else f"{shown} {word}s"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _table(rows: Rows) -> list[str]:
    """Columns aligned, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(widths[i]) for i, cell in enumerate(row[1:], 1))]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _set_lines(facts: SetFacts, heading: str) -> list[str]:
    counts = (facts.samples_per_shard_min, facts.samples_per_shard_median, facts.samples_per_shard_max)
    least, middle, most = (f"{count:,.0f}" for count in counts)
    pairs = [
        ("manifest", facts.manifest),
        ("digest", facts.digest),
        ("samples", f"{facts.samples:,} in {_counted(facts.shards, 'shard')}, {_size(facts.bytes)}"),
        ("samples a shard", f"{least} least, {middle} median, {most} most"),
        ("bytes a sample", f"{_size(facts.bytes_per_sample)} on average, captions and tar headers included"),
    ]
    lines = [f"{heading}: {facts.name} ({facts.variant})", *(f"  {name:<16}  {said}" for name, said in pairs)]
    reasons = sorted(facts.rejected.items(), key=lambda item: (-item[1], item[0]))
    rows: Rows = [
        ("rows of metadata", f"{facts.rows:,}", ""),
        ("- became samples", f"{facts.samples:,}", _percent(facts.samples, facts.rows)),
        *((f"- {reason}", f"{count:,}", _percent(count, facts.rows)) for reason, count in reasons),
    ]
    return [*lines, *_table(rows)]


def _run_lines(facts: RunFacts, sets: Sequence[SetFacts]) -> list[str]:
    pairs = [
        ("seed", str(facts.seed)),
        ("global batch", _counted(facts.global_batch, "sample")),
        ("lanes", f"{facts.lanes:,}" + (" in each data set" if len(sets) > 1 else "")),
        ("shuffle window", f"{_counted(facts.shuffle_window, 'sample')} of a lane"),
        ("an epoch", f"{facts.steps_per_epoch:,.2f} steps"),
        (
            "memory",
            f"{_size(facts.held_bytes)} over all processes: {_counted(facts.held_samples, 'sample')} in windows",
        ),
    ]
    if len(sets) > 1:
        pairs.append(("shares", ", ".join(f"{each.name} {100 * each.share:.2f} %" for each in sets)))
    return ["a run with these settings", *(f"  {name:<16}  {said}" for name, said in pairs)]


def _measure_row(name: str, measure: Measure, scale: float = 1.0) -> tuple[str, ...]:
    mean, lowest, highest, random = (
        _number(scale * value) for value in (measure.mean, measure.lowest, measure.highest, measure.random)
    )
    return (name, mean, lowest, highest, random)


def _quality_lines(quality: ShuffleQuality, names: Sequence[str]) -> list[str]:
    rows: Rows = [
        ("", "this run", "lowest", "highest", "random order"),
        _measure_row("places a batch draws from", quality.places),
        _measure_row("shards a batch draws from", quality.shards),
        _measure_row("samples whose neighbour in the shard is in the same batch, %", quality.neighbours, 100),
        _measure_row("pairs of a batch that are from one shard, %", quality.same_shard, 100),
        _measure_row("samples shared with the same batch of the next epoch", quality.overlap),
    ]
    for name, measures in zip(names, quality.sets, strict=True):
        of = f" ({name})" if len(names) > 1 else ""
        spread = f"0 ± {_number(measures.rank_correlation_sd)}"
        rows.append((f"rank correlation of id and position{of}", _number(measures.rank_correlation), "", "", spread))
        if measures.neighbour_steps is not None and measures.neighbour_steps_random is not None:
            apart, random = _number(measures.neighbour_steps), _number(measures.neighbour_steps_random)
            rows.append((f"steps between neighbours, median{of}", apart, "", "", random))
    heading = (
        f"shuffle quality: {quality.steps:,} of {_counted(quality.steps_in_epoch, 'step')} of epoch {quality.epoch}"
    )
    return [heading, *_table(rows)]


def verdict(quality: ShuffleQuality) -> list[str]:
    """What the measures mean, in sentences."""
    places, neighbours, overlap = quality.places, quality.neighbours, quality.overlap
    drawn = f"from {_counted(places.mean, 'place')} in {_counted(quality.shards.mean, 'shard')}"
    apart = neighbours.mean <= _MANY_TIMES * neighbours.random + _SOME_NEIGHBOURS
    if apart and places.mean >= _FEW_PLACES * places.random:
        batches = f"Batches are as good as random: they draw {drawn}."
    else:
        batches = (
            f"Batches draw {drawn}, those of a random order from {places.random:,.0f} in {quality.shards.random:,.0f}; "
            f"{_number(100 * neighbours.mean)} % of a batch has its neighbour in the shard with it (random: "
            f"{_number(100 * neighbours.random)} %). Where neighbours are unrelated this costs nothing; where they are "
            "alike (one photographer, one day), more lanes or a larger shuffle window help."
        )
    # The mean over the steps varies about its expectation like a count.
    chance = 3 * (overlap.random / quality.steps) ** 0.5 + 1
    anew = overlap.mean <= _MANY_TIMES * overlap.random + chance
    again = f"{_number(overlap.mean)} of its samples meet again on average, {_number(overlap.random)} at random"
    trend = any(abs(m.rank_correlation) > _TREND + 3 * m.rank_correlation_sd for m in quality.sets)
    return [
        batches,
        f"The next epoch puts a batch together {'anew' if anew else 'too much alike'}: {again}.",
        "Early and late batches draw from different parts of the data set; more lanes help."
        if trend
        else "Early and late batches draw from all parts of the data set alike.",
    ]


def report_text(sets: Sequence[SetFacts], run: RunFacts, quality: ShuffleQuality) -> str:
    """Everything for people, in aligned columns."""
    headings = ["data set"] if len(sets) == 1 else [f"data set {number}" for number in range(len(sets))]
    blocks = [_set_lines(facts, heading) for facts, heading in zip(sets, headings, strict=True)]
    blocks += [_run_lines(run, sets), _quality_lines(quality, [facts.name for facts in sets])]
    said = (textwrap.fill(each, _WIDTH, initial_indent="  - ", subsequent_indent="    ") for each in verdict(quality))
    return "\n\n".join("\n".join(block) for block in [*blocks, ["verdict", *said]]) + "\n"


def report_data(sets: Sequence[SetFacts], run: RunFacts, quality: ShuffleQuality) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "data_sets": [asdict(facts) for facts in sets],
        "run": asdict(run),
        "shuffle_quality": asdict(quality),
        "verdict": " ".join(verdict(quality)),
    }
