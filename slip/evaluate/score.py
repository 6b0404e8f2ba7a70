"""What one protocol found on one labelled set: the record that every protocol returns; imports no torch.

Protocols make it, `slip.evaluate.report` shows it and writes it, whoever reads an evaluation back gets it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number, and what it was counted from."""

    set: str
    """Name of the labelled set."""
    protocol: str
    """zeroshot, linear-sgd, linear-fast, finetune, knn or retrieval."""
    metric: str
    """What `value` is: accuracy, mean per class, ROC AUC, mean of top-1 and top-5, R@1 image to text ..."""
    value: float
    """0 to 1."""
    pictures: int
    """How many it was measured on, each counted once."""
    classes: int
    """0 where there are none (retrieval)."""
    interval95: tuple[float, float] | None = None
    """Where the value of all such pictures lies with 95 % confidence, None where nobody worked that out."""
    counts: dict[str, int] = field(default_factory=dict)
    """Exact counts behind it, by name: top1, top5 ..."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Pictures by true class (rows) and predicted class (columns)."""
    classnames: tuple[str, ...] = ()
    """First name of each class."""
    detail: dict[str, float | int | str] = field(default_factory=dict)
    """What the protocol chose or was told: neighbours, weight decay, epochs ..."""
    partial: str | None = None
    """Why it covers less than all, None normally."""

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"{self.set}, {self.protocol}: {self.metric} is {self.value}; it must be from 0 to 1")
        if self.confusion is not None and len(self.confusion) != self.classes:
            raise ValueError(f"{self.set}: {len(self.confusion)} rows of a confusion matrix of {self.classes} classes")


def to_data(score: Score) -> dict[str, Any]:
    """Plain data, as it goes into a JSON file; of the confusion matrix [true, predicted, count] where it is not 0."""
    found = dataclasses.asdict(score)
    if score.confusion is not None:
        rows = enumerate(score.confusion)
        found["confusion"] = [[true, said, n] for true, row in rows for said, n in enumerate(row) if n]
    return found


def _dense(cells: list[list[int]], classes: int) -> tuple[tuple[int, ...], ...]:
    rows = [[0] * classes for _ in range(classes)]
    for true, said, count in cells:
        rows[true][said] = count
    return tuple(map(tuple, rows))


def from_data(content: Mapping[str, Any], where: str) -> Score:
    """A Score out of plain data that has been through JSON; InputError naming `where` if it is something else."""
    names = {one.name for one in dataclasses.fields(Score)}
    values = {name: value for name, value in content.items() if name in names}
    try:
        for name in ("interval95", "classnames"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        if values.get("confusion") is not None:
            values["confusion"] = _dense(values["confusion"], values["classes"])
        return Score(**values)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{where}: not a score of slip evaluate ({error}); evaluate again") from error
