"""What a run's evaluations say, one score for each protocol, set and metric: the newest weights', as people read them.

In: the `Evaluation`s of a run. Out: scores by `Key`, in the order in which tables list them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slip.evaluate.published import Published, published_rows
from slip.evaluate.score import Score
from slip.pages.run_files import Run

PROTOCOLS = {
    "zeroshot": "zero-shot",
    "knn": "kNN",
    "linear-fast": "linear probe (L-BFGS)",
    "linear-sgd": "linear probe (SGD)",
    "finetune": "fine-tuned",
    "retrieval": "retrieval",
}
"""Protocols in the order of tables, as people call them."""
_PUBLISHED_DATA = {"cc3m": "CC3M", "cc12m": "CC12M"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What makes two scores the same question."""

    protocol: str
    set: str
    metric: str

    @property
    def protocol_name(self) -> str:
        """For people."""
        return PROTOCOLS.get(self.protocol, self.protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A run's score, and which weights have it."""

    score: Score
    step: int
    weights: str

    @property
    def percent(self) -> str:
        """0.71234 -> "71.23"."""
        return f"{100 * self.score.value:.2f}"

    @property
    def interval(self) -> str:
        """(0.7, 0.72) -> "70.00 to 72.00"; "" where it is not known."""
        found = self.score.interval95
        return f"{100 * found[0]:.2f} to {100 * found[1]:.2f}" if found is not None else ""


def answers(run: Run) -> dict[Key, Answer]:
    """The newest score of each key; of equally new ones that of the average, which a run with one is judged by."""
    found: dict[Key, Answer] = {}
    for evaluation in run.evaluations:
        for score in evaluation.scores:
            key = Key(protocol=score.protocol, set=score.set, metric=score.metric)
            answer = Answer(score=score, step=evaluation.step, weights=evaluation.weights)
            before = found.get(key)
            if before is None or _rank(answer) >= _rank(before):
                found[key] = answer
    return {key: found[key] for key in ordered(found)}


def published_beside(run: Run, variants: Sequence[str]) -> Published | None:
    """The published model that a run's numbers stand beside; None where there is none like it.

    The same objective and tower on the same kind of data, trained for as many epochs or next to it; other data than the
    published ones stand beside YFCC15M.
    """
    objective = run.config.objective
    if objective.name == "slip" and objective.ssl != ("simclr",):
        return None
    name = next((known for variant, known in _PUBLISHED_DATA.items() if tuple(variants) == (variant,)), "YFCC15M")
    rows = [row for row in published_rows(objective.name, run.config.model.tower) if row.data == name]
    return min(rows, key=lambda row: abs(row.epochs - run.config.optim.epochs), default=None)


def _rank(answer: Answer) -> tuple[int, bool, bool]:
    return answer.step, answer.score.partial is None, answer.weights == "average"


def ordered(keys: Iterable[Key]) -> list[Key]:
    """By protocol as `PROTOCOLS` lists them, then as they come; each once."""
    places = {name: number for number, name in enumerate(PROTOCOLS)}
    return sorted(dict.fromkeys(keys), key=lambda key: places.get(key.protocol, len(places)))
