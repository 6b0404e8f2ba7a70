"""What an evaluation found: a table for people and plain data for programs; imports no torch.

In: exact counts of each labelled set, or why a set could not be read. Out: text, and what goes into the JSON file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# 97.5 % of a normal distribution lie below: two-sided, 95 % are between.
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """Counts over one labelled set, all of its pictures."""

    url: str
    classes: int
    pictures: int
    top1: int
    """Pictures whose class came first."""
    top5: int
    """Pictures whose class was among the first five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A labelled set that could not be evaluated."""

    url: str
    error: str
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was evaluated, and how."""

    protocol: str
    checkpoint: str
    """URL of the file."""
    step: int
    """Optimizer steps the weights have behind them."""
    weights: str
    """model, or average."""
    objective: str
    tower: str
    image_size: int
    precision: str
    """Arithmetic of the towers: bf16 or fp32."""
    versions: dict[str, str]
    """Of what evaluated."""
    trained_with: dict[str, str]
    """Versions of what trained."""


def wilson(right: int, total: int, z: float = _Z95) -> tuple[float, float]:
    """Interval (0 to 1) of a share of which `right` of `total` were seen: (0, 10) -> (0.0, 0.278).

    Wilson's score interval (E. B. Wilson, JASA 22, 1927): the shares that a score test at the level of `z` (two-sided,
    95 %) does not reject. Unlike the share plus and minus its standard error it is sound near 0 and 1.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(f"{right} of {total} is no share")
    share, square = right / total, z * z / total
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    # Exact at both ends, where rounding would leave 1e-17 or go beyond.
    return (0.0 if right == 0 else centre - half, 1.0 if right == total else centre + half)


def _names(urls: Sequence[str]) -> list[str]:
    """Short names, whole URLs where short ones are the same: ["s3://b/cifar10", "x/food"] -> ["cifar10", "food"]."""
    short = [url.rstrip("/").rpartition("/")[2] or url for url in urls]
    return [name if short.count(name) == 1 else url for name, url in zip(short, urls, strict=True)]


def _row(name: str, score: SetScore) -> list[str]:
    low, high = wilson(score.top1, score.pictures)
    shares = (score.top1 / score.pictures, score.top5 / score.pictures)
    return [
        *(name, f"{score.pictures:,}", f"{score.classes:,}", f"{shares[0]:.2%}"[:-1]),
        *(f"{100 * low:.2f} to {100 * high:.2f}", f"{shares[1]:.2%}"[:-1], f"{100 / score.classes:.2f}"),
    ]


def table(subject: Subject, results: Sequence[SetScore | Unread]) -> str:
    """The results as text; sets that could not be read stand below with the reason."""
    names = _names([result.url for result in results])
    rows = [["set", "pictures", "classes", "top-1 %", "95 % interval", "top-5 %", "guessing %"]]
    rows += [_row(name, result) for name, result in zip(names, results, strict=True) if isinstance(result, SetScore)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{subject.protocol}: {subject.checkpoint}, step {subject.step}, weights: {subject.weights}; "
        f"{subject.objective} with tower {subject.tower}, {subject.image_size} px, {subject.precision}"
    ]
    for first, *others in rows if len(rows) > 1 else []:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    lines += [
        f"{name}: not evaluated: {result.error}"
        for name, result in zip(names, results, strict=True)
        if isinstance(result, Unread)
    ]
    return "\n".join(lines) + "\n"


def data(subject: Subject, results: Sequence[SetScore | Unread]) -> dict[str, Any]:
    """The same as plain data, counts exact; the same evaluation gives the same data."""
    sets = []
    for result in results:
        found = dataclasses.asdict(result)
        if isinstance(result, SetScore):
            found["top1_share"] = result.top1 / result.pictures
            found["top5_share"] = result.top5 / result.pictures
            found["top1_interval95"] = list(wilson(result.top1, result.pictures))
        sets.append(found)
    return {**dataclasses.asdict(subject), "sets": sets}
