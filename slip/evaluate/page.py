"""An evaluation as one HTML page that needs nothing from anywhere: all scores, and per set its classes and confusions.

Pure: outcomes in, text out. Everything that comes from data is escaped. Of few classes the whole confusion matrix is
shown, of many the pairs that are confused most often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from slip.evaluate.page_style import STYLE
from slip.evaluate.published import SOURCE, published_rows
from slip.evaluate.report import Key, Outcome, Subject
from slip.evaluate.score import Score
from slip.evaluate.table import HEADS, cells, mean_of, means, names_of, percent, published_for, remarks, title

MOST_CELLS = 30
"""Classes up to which the whole matrix is shown."""
MOST_PAIRS = 30
MOST_BARS = 20

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def _row(words: Iterable[str], *, text: int, kind: str = "", extra: str = "") -> str:
    """A row of a table, its first `text` cells words and the others numbers."""
    found = [f"<td{' class=text' if number < text else ''}>{escape(word)}</td>" for number, word in enumerate(words)]
    return f"<tr{f' class={kind}' if kind else ''}>{''.join(found)}{extra}</tr>"


def _table(heads: Sequence[str], rows: Iterable[str], *, text: int, extra: str = "") -> str:
    head = "".join(
        f"<th{' class=text' if number < text else ''}>{escape(word)}</th>" for number, word in enumerate(heads)
    )
    return f"<div class=scroll><table><thead><tr>{head}{extra}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _bar(share: float) -> str:
    return f'<td class=bar><i style="width:{100 * share:.1f}%"></i></td>'


def _summary(subject: Subject, outcomes: Sequence[Outcome]) -> str:
    published = published_for(subject)
    rows = [
        (
            [*cells(name, score, published), f"{score.pictures:,}", f"{score.classes:,}" if score.classes else ""],
            score.value,
        )
        for name, outcome in zip(names_of(outcomes), outcomes, strict=True)
        for score in outcome.scores
    ]
    scores = len(rows)
    for protocol, mean, count, asked in means(outcomes):
        rows.append(([mean_of(count, asked), protocol, "", percent(mean), *[""] * 6], mean))
    if not rows:
        return "<p>No set has been evaluated.</p>"
    heads = [*HEADS, "pictures", "classes"]
    used = [place for place in range(len(heads)) if any(words[place] for words, _ in rows)]
    lines = (
        _row((words[i] for i in used), text=3, kind="mean" if number >= scores else "", extra=_bar(value))
        for number, (words, value) in enumerate(rows)
    )
    return _table([heads[i] for i in used], lines, text=3, extra="<th></th>")


def _published(subject: Subject) -> str:
    rows = published_rows(subject.objective, subject.tower)
    if not rows:
        return ""
    numbers = [
        (row.words(), *(f"{n:.1f}" if n is not None else "" for n in (row.zeroshot, row.linear, row.finetune)))
        for row in rows
    ]
    heads = ("model", "zero-shot %", "linear %", "fine-tuned %")
    return (
        f"<h2>Published on ImageNet</h2><p class=soft>Top-1 accuracy, {SOURCE}.</p>"
        f"{_table(heads, (_row(words, text=1) for words in numbers), text=1)}"
    )


def per_class(score: Score) -> list[tuple[str, int, int]]:
    """Name, pictures and right ones of each class that has pictures, the worst first."""
    assert score.confusion is not None
    names = score.classnames or tuple(map(str, range(score.classes)))
    found = [(names[i], sum(row), row[i]) for i, row in enumerate(score.confusion) if sum(row)]
    return sorted(found, key=lambda one: (one[2] / one[1], one[0]))


def most_confused(score: Score) -> list[tuple[str, str, int, int]]:
    """True class, class it was taken for, how often, and of how many; the most frequent first."""
    assert score.confusion is not None
    names = score.classnames or tuple(map(str, range(score.classes)))
    wrong = [
        (names[true], names[said], count, sum(row))
        for true, row in enumerate(score.confusion)
        for said, count in enumerate(row)
        if count and true != said
    ]
    return sorted(wrong, key=lambda one: (-one[2], one[3], one[0], one[1]))


def _bars(rows: Sequence[tuple[str, int, int]]) -> str:
    return _table(
        ("class", "pictures", "right", "right %"),
        (
            _row((name, f"{total:,}", f"{right:,}", percent(right / total)), text=1, extra=_bar(right / total))
            for name, total, right in rows
        ),
        text=1,
        extra="<th></th>",
    )


def _classes(score: Score) -> str:
    rows = per_class(score)
    if len(rows) <= 2 * MOST_BARS:
        return f"<h3>Classes, from the worst</h3>{_bars(rows)}"
    return (
        f"<h3>The {MOST_BARS} worst classes</h3>{_bars(rows[:MOST_BARS])}<details><summary>All {len(rows):,} classes"
        f"</summary>{_bars(rows)}</details>"
    )


def _matrix(score: Score) -> str:
    """The whole matrix: a cell's colour is its share of the true class."""
    assert score.confusion is not None
    names = [escape(name) for name in score.classnames or tuple(map(str, range(score.classes)))]
    head = "".join(f"<th><span>{name}</span></th>" for name in names)
    rows = []
    for true, row in enumerate(score.confusion):
        total = sum(row)
        found = "".join(
            f'<td class={"right" if true == said else "wrong"} style="--p:{90 * count / max(total, 1):.0f}%" '
            f'title="{count:,} of {total:,} {names[true]} taken for {names[said]}">{count or ""}</td>'
            for said, count in enumerate(row)
        )
        rows.append(f"<tr><th class=row>{names[true]}</th>{found}</tr>")
    return (
        "<h3>Confusion</h3><p class=soft>Rows are true classes, columns what they were taken for.</p><div class=scroll>"
        f"<table class=heat><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _pairs(score: Score) -> str:
    rows = most_confused(score)[:MOST_PAIRS]
    if not rows:
        return ""
    words = (
        _row((true, said, f"{count:,}", percent(count / total)), text=2, extra=_bar(count / total))
        for true, said, count, total in rows
    )
    heads = ("class", "taken for", "pictures", "of the class %")
    return f"<h3>Confused most often</h3>{_table(heads, words, text=2, extra='<th></th>')}"


def _set(name: str, score: Score) -> str:
    """One score's classes."""
    chosen = ", ".join(f"{key}: {value}" for key, value in score.detail.items())
    whole = score.classes <= MOST_CELLS
    return (
        f"<section><h2>{escape(name)}, {escape(score.protocol)}: {percent(score.value)} %</h2>"
        f"<p class=soft>{escape(score.metric)} on {score.pictures:,} pictures{escape(f'; {chosen}' if chosen else '')}"
        f"</p>{_matrix(score) if whole else _pairs(score)}{_classes(score)}</section>"
    )


def page(subject: Subject, outcomes: Sequence[Outcome], outstanding: Sequence[Key] = ()) -> str:
    """The page.

    Args:
        outstanding: what was asked for and is not done yet.
    """
    left = ""
    if outstanding:
        names = ", ".join(f"{name} ({asked})" for asked, name, _ in outstanding)
        left = f"<p class=warn>Partial: still to come are {escape(names)}. The same command again goes on.</p>"
    notes = "".join(f"<p class=warn>{escape(remark)}</p>" for remark in remarks(outcomes))
    sets = "".join(
        _set(name, score)
        for name, outcome in zip(names_of(outcomes), outcomes, strict=True)
        for score in outcome.scores
        if score.confusion is not None
    )
    made = ", ".join(f"{name} {version}" for name, version in sorted(subject.versions.items()))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Evaluation of step {subject.step}</title><style>{STYLE}</style><main>"
        f"<h1>Evaluation of {escape(subject.objective)} {escape(subject.tower)}, step {subject.step:,}</h1>"
        f"<p class=soft>{escape(title(subject))}</p>{left}{notes}{_summary(subject, outcomes)}"
        f"{_published(subject)}{sets}<p class=soft>Made with {escape(made)}.</p></main></html>\n"
    )
