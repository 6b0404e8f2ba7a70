"""An evaluation as a table of text; imports no torch.

In: outcomes. Out: one line a score, the mean over sets of each protocol, and below it what could not be evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence

from slip.evaluate.published import SOURCE, Published, beside, number_for
from slip.evaluate.report import Outcome, Subject
from slip.evaluate.score import Score

HEADS = ("set", "protocol", "metric", "value %", "95 % interval", "top-5 %", "guessing %", "published %")


def percent(value: float) -> str:
    """0.59407 -> "59.41"."""
    return f"{100 * value:.2f}"


def interval(score: Score) -> str:
    """ "58.80 to 60.01", "" where nobody worked it out."""
    return " to ".join(map(percent, score.interval95)) if score.interval95 is not None else ""


def guessing(score: Score) -> float | None:
    """The value that guessing gives, None for retrieval."""
    if not score.classes:
        return None
    if score.metric == "ROC AUC":
        return 0.5
    if score.metric == "mean of top-1 and top-5":
        return (1 + min(5, score.classes)) / score.classes / 2
    return 1 / score.classes


def names_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Names of sets, URLs where two of the same name lie elsewhere."""
    places: dict[str, set[str]] = {}
    for outcome in outcomes:
        places.setdefault(outcome.set, set()).add(outcome.url)
    return [outcome.set if len(places[outcome.set]) == 1 else outcome.url for outcome in outcomes]


def published_for(subject: Subject) -> Published | None:
    """The published model beside which this one stands."""
    return beside(subject.objective, subject.tower, subject.epochs, subject.data)


def cells(name: str, score: Score, published: Published | None) -> list[str]:
    """A line of the table."""
    top5 = score.counts.get("top5") if score.classes > 5 else None
    number, guess = number_for(published, score.set, score.protocol), guessing(score)
    return [
        *(name, score.protocol, score.metric, percent(score.value), interval(score)),
        percent(top5 / score.pictures) if top5 is not None else "",
        percent(guess) if guess is not None else "",
        f"{number:.1f}" if number is not None else "",
    ]


def means(outcomes: Sequence[Outcome]) -> list[tuple[str, float, int, int]]:
    """For each classifying protocol with several sets: its name, the mean of their values, of how many, of how many
    that were asked for."""
    asked: dict[str, int] = {}
    values: dict[str, list[float]] = {}
    of: dict[str, str] = {}
    for outcome in outcomes:
        asked[outcome.asked] = asked.get(outcome.asked, 0) + 1
        for score in outcome.scores:
            if score.classes:
                values.setdefault(score.protocol, []).append(score.value)
                of[score.protocol] = outcome.asked
    return [
        (protocol, sum(found) / len(found), len(found), asked[of[protocol]])
        for protocol, found in values.items()
        if asked[of[protocol]] > 1
    ]


def mean_of(count: int, asked: int) -> str:
    """ "mean of 20 of 26 sets"."""
    return f"mean of {count} sets" if count == asked else f"mean of {count} of {asked} sets"


def remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """What is to say of sets that are missing, failed, or were not covered whole."""
    found = []
    several = len({outcome.asked for outcome in outcomes}) > 1
    missing: dict[str, str] = {}
    for name, outcome in zip(names_of(outcomes), outcomes, strict=True):
        if outcome.error is not None and outcome.missing:
            missing.setdefault(name, outcome.error)
        elif outcome.error is not None:
            found.append(f"{name}{f' ({outcome.asked})' if several else ''}: not evaluated: {outcome.error}")
        found += [f"{name}: {score.protocol} is partial: {score.partial}" for score in outcome.scores if score.partial]
    if missing:
        found.append(f"not found: {', '.join(missing)}: {next(iter(missing.values()))}")
    return found


def title(subject: Subject) -> str:
    """What was evaluated, in a line."""
    return (
        f"{subject.checkpoint}, step {subject.step}, weights: {subject.weights}; {subject.objective} with tower "
        f"{subject.tower}, {subject.image_size} px, {subject.precision}"
    )


def table(subject: Subject, outcomes: Sequence[Outcome]) -> str:
    """The outcomes as text."""
    published = published_for(subject)
    rows = [
        cells(name, score, published)
        for name, outcome in zip(names_of(outcomes), outcomes, strict=True)
        for score in outcome.scores
    ]
    for protocol, mean, count, asked in means(outcomes):
        rows.append([mean_of(count, asked), protocol, "", percent(mean), *[""] * 4])
    lines = [title(subject)]
    if rows:
        shown = [list(HEADS), *rows]
        columns = [column for column in range(len(HEADS)) if any(row[column] for row in rows)]
        widths = [max(len(row[column]) for row in shown) for column in columns]
        for row in shown:
            padded = [
                row[column].ljust(width) if column < 3 else row[column].rjust(width)
                for column, width in zip(columns, widths, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
    if published is not None and any(row[-1] for row in rows):
        lines.append(f"published: {published.words()} ({SOURCE})")
    return "\n".join([*lines, *remarks(outcomes)]) + "\n"
