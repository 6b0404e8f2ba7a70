"""The page that compares runs: warnings, curves, evaluations, settings that differ, where the time went.

Pure: runs in, one HTML page out that needs nothing from anywhere. Reading them is `slip.pages.run_files`'s part,
drawing `slip.pages.curves`'s, the frame `slip.pages.frame`'s.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from html import escape
from typing import Literal

from slip.goodput import TIME, duration
from slip.pages.comparable import Compared, warnings
from slip.pages.curves import COLOURS, DASHES, Series, plot
from slip.pages.frame import hiding, page, table, warning
from slip.pages.run_files import Record, Run
from slip.pages.scores import Answer, Key, answers, ordered
from slip.pages.settings import differing
from slip.pages.timing import spent

Over = Literal["steps", "samples", "epochs", "hours"]

TITLES = {
    "loss": "Loss, all terms as they are weighted",
    "zeroshot/top1": "Zero-shot accuracy in training (share)",
    "zeroshot/top5": "Zero-shot, among the first five (share)",
    "lr": "Learning rate",
    "images_per_s": "Samples a second, all ranks",
    "mfu": "MFU (share of the devices' peak)",
    "grad_norm": "Norm of the gradient",
    "logit_scale": "Logit scale",
    "time/data_s": "Waiting for data (seconds a step)",
    "memory/peak_bytes": "Peak memory of rank 0 (bytes)",
    "skipped": "Steps left out so far",
    "data/damaged": "Damaged samples so far",
}
_FAMILIES = {"loss/": "Loss: {}", "acc/": "Picks its partner: {} (share)"}
_ORDER = ("loss", "loss/", "zeroshot/top1", "zeroshot/top5", "acc/", *list(TITLES)[3:])
_NO_CURVES = {"epoch", TIME}
_COUNTS = ("skipped", "data/damaged")


def title_of(name: str) -> str:
    """What a number is called above its curve."""
    family = next((one for one in _FAMILIES if name.startswith(one)), None)
    return TITLES.get(name) or (_FAMILIES[family].format(name[len(family) :]) if family else name)


def chart_names(runs: Sequence[Run]) -> list[str]:
    """The numbers that have curves, in the order of the page; counts only where something was counted."""
    names = dict.fromkeys(name for run in runs for name in run.names() if name not in _NO_CURVES)
    for name in _COUNTS:
        if not any(value for run in runs for _, value in run.points(name)):
            names.pop(name, None)

    def place(name: str) -> int:
        family = name.partition("/")[0] + "/"
        known = name if name in _ORDER else family
        return _ORDER.index(known) if known in _ORDER else len(_ORDER)

    return sorted(names, key=place)


def _x(record: Record, run: Run, over: Over) -> float:
    if over == "samples":
        return record.step * run.config.optim.global_batch
    if over == "epochs":
        return record.step / (run.steps_per_epoch or 1.0)
    if over == "hours":
        return (record.values[TIME] - run.records[0].values[TIME]) / 3600
    return record.step


def series(runs: Sequence[Compared], name: str, over: Over) -> list[Series]:
    """The curves of one number."""
    found = []
    for number, one in enumerate(runs):
        run = one.run
        timed = [(r, y) for r, y in run.points(name) if over != "hours" or TIME in r.values]
        points = sorted((_x(record, run, over), y) for record, y in timed)
        found.append(Series(number=number, label=one.label, points=tuple(points)))
    return found


def _charts(runs: Sequence[Compared], over: Over) -> str:
    panels = []
    for name in chart_names([one.run for one in runs]):
        title, curves = title_of(name), series(runs, name, over)
        linear = plot(curves, title=title, x_name=over)
        logarithmic = plot(curves, title=f"{title}, logarithmic", x_name=over, log=True)
        kind = "panel has-log" if logarithmic else "panel"
        panels.append(f'<figure class="{kind}"><h3>{escape(title)}</h3>{linear}{logarithmic}</figure>')
    lead = "Where records are many, the line is their mean and the band goes from the lowest to the highest."
    return (
        f"<p class=soft>{lead}</p><div class=panels>{''.join(panels)}</div>"
        if panels
        else "<p class=soft>No records yet.</p>"
    )


def _key(number: int) -> str:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    look = f' stroke-dasharray="{dash}"' if dash else ""
    line = f'<line x1="0" x2="22" y1="5" y2="5"{look}/>'
    return f'<svg class="key c{number % len(COLOURS)}" viewBox="0 0 22 10">{line}</svg>'


def _controls(runs: Sequence[Compared]) -> str:
    boxes = [
        f'<label><input type=checkbox id="run-{i}" checked>{_key(i)}{escape(one.label)}</label>'
        for i, one in enumerate(runs)
    ]
    return f"<div class=controls>{''.join(boxes)}<label><input type=checkbox id=log> logarithmic</label></div>"


def _run_rows(runs: Sequence[Compared]) -> Iterator[list[str]]:
    for number, one in enumerate(runs):
        run, config = one.run, one.run.config
        planned = run.planned_steps
        state = "finished" if planned is not None and run.step >= planned else "not finished"
        of = f" of {planned:,}" if planned is not None else ""
        terms = " + ".join([config.objective.name, *(config.objective.ssl if config.objective.name == "slip" else ())])
        digest = one.data.digest[:12] if one.data.digest is not None else "unknown"
        loss = run.last("loss")
        yield [
            f"{_key(number)}{escape(one.label)}",
            escape(f"{terms}, {config.model.tower}"),
            f"{'+'.join(map(escape, one.data.names))}<small>{digest}</small>",
            f"{run.step:,}{of}<small>{state}</small>",
            f"{run.step * config.optim.global_batch:,}",
            f"{loss:.4f}" if loss is not None else "-",
        ]


def _cell(answer: Answer | None, best: float, contested: bool) -> str:
    if answer is None:
        return "-"
    score = answer.score
    notes = [answer.interval, f"step {answer.step:,}{', average' if answer.weights == 'average' else ''}"]
    if score.partial is not None:
        notes.append(f"partial: {score.partial}")
    star = "*" if contested and score.value == best and score.partial is None else ""
    return f"{star}{answer.percent}<small>{escape('; '.join(note for note in notes if note))}</small>"


def _scores(runs: Sequence[Compared]) -> str:
    found = [answers(one.run) for one in runs]
    rows = []
    for key in ordered(key for known in found for key in known):
        whole = [known[key].score.value for known in found if key in known and known[key].score.partial is None]
        cells = [_cell(known.get(key), max(whole, default=-1.0), len(set(whole)) > 1) for known in found]
        rows.append([_question(key), *cells])
    rows += list(_training_rows(runs))
    if not rows:
        return "<p class=soft>No evaluations yet (slip evaluate RUN).</p>"
    lead = "In percent, the best of each row in bold. Where intervals (95 %) overlap the order may be chance."
    return f"<p class=soft>{lead}</p>{table(['', *(escape(one.label) for one in runs)], rows)}"


def _question(key: Key) -> str:
    return f"{escape(key.set)}<small> {escape(key.protocol_name)}, {escape(key.metric)}</small>"


def _training_rows(runs: Sequence[Compared]) -> Iterator[list[str]]:
    """The evaluations that training itself made."""
    points = [one.run.points("zeroshot/top1") for one in runs]
    if not any(points):
        return
    newest = [found[-1] if found else None for found in points]
    highest = [max(found, key=lambda point: point[1]) if found else None for found in points]
    for name, chosen in (("last", newest), ("best", highest)):
        values = [one[1] for one in chosen if one is not None]
        cells = []
        for one in chosen:
            star = "*" if one is not None and len(set(values)) > 1 and one[1] == max(values) else ""
            cells.append("-" if one is None else f"{star}{100 * one[1]:.2f}<small>step {one[0].step:,}</small>")
        yield [f"in training<small> zero-shot, accuracy, {name}</small>", *cells]


def _median(run: Run, name: str, form: str) -> str:
    values = [value for _, value in run.points(name)]
    return form.format(statistics.median(values)) if values else "-"


def _time_column(run: Run) -> list[str]:
    found = spent(run.records, run.config.optim.global_batch)
    if found is None:
        times = ["-"] * 5
    else:
        wall = found.wall_s or 1.0
        times = [
            duration(found.wall_s),
            f"{found.goodput:.1%}",
            f"{duration(found.data_s)} <small>{found.data_s / wall:.1%}</small>",
            f"{duration(found.elsewhere_s)} <small>{found.elsewhere_s / wall:.1%}</small>",
            f"{duration(found.longest_pause_s)} <small>after step {found.pause_step:,}</small>",
        ]
    failures = f"{len(run.failures)}"
    if run.failures:
        newest = run.failures[-1]
        failures += f"<small>newest: exit status {newest.status}, after step {max(newest.step, 0):,}</small>"
    counts = [f"{run.last(name) or 0:,.0f}" for name in _COUNTS]
    peak = run.last("memory/peak_bytes")
    rates = [_median(run, "images_per_s", "{:,.0f}"), _median(run, "mfu", "{:.1%}")]
    return [*times, failures, *counts, *rates, f"{peak / 1e9:,.2f} GB" if peak is not None else "-"]


def _times(runs: Sequence[Compared]) -> str:
    names = (
        *("wall time, first record to last", "goodput: share of it in steps, not waiting", "waiting for data"),
        *("beside steps: checkpoints, evaluations, restarts", "longest pause between records"),
        *("failures noted", "steps left out", "damaged samples", "samples a second, median", "MFU, median"),
        "peak memory of rank 0",
    )
    columns = [_time_column(one.run) for one in runs]
    rows = [[name, *(column[i] for column in columns)] for i, name in enumerate(names)]
    return table(["", *(escape(one.label) for one in runs)], rows)


def _settings(runs: Sequence[Compared]) -> str:
    rows = [
        [f"<code>{escape(name)}</code>", *map(escape, values)]
        for name, values in differing([one.run.config for one in runs])
    ]
    if not rows:
        return "<p class=soft>All settings are the same.</p>" if len(runs) > 1 else "<p class=soft>One run.</p>"
    return table(["", *(escape(one.label) for one in runs)], rows)


def render(runs: Sequence[Compared], over: Over) -> str:
    """The page."""
    title = f"{runs[0].label}" if len(runs) == 1 else f"{len(runs)} runs compared"
    notes = [*warnings(runs), *(f"{one.label}: {note}" for one in runs for note in one.run.notes)]
    heads = ["run", "objective and tower", "data", "steps", "samples", "last loss"]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=soft>{escape(', '.join(one.run.url for one in runs))}</p>",
        table(heads, _run_rows(runs)),
        *map(warning, notes),
        f"<h2>Curves over {over}</h2>{_controls(runs)}{_charts(runs, over)}",
        f"<h2>Evaluations</h2>{_scores(runs)}",
        f"<h2>Settings that differ</h2>{_settings(runs)}",
        f"<h2>Where the time went</h2>{_times(runs)}",
    ]
    return page(title, "\n".join(body), style=hiding(len(runs)))
