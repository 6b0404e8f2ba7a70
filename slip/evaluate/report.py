"""What an evaluation found, as records and as a JSON file that grows with every set; imports no torch.

In: outcomes, a set and a protocol each. Out: the file's bytes, and outcomes again from such a file: the same command
again skips what is in it, another one adds to it. How it looks to people is `slip.evaluate.table`'s and
`slip.evaluate.page`'s part.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import store
from pipeline.errors import InputError
from slip.evaluate.score import Score, from_data, to_data

logger = logging.getLogger(__name__)

FORMAT = "slip evaluation 2"
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was evaluated."""

    checkpoint: str
    """URL of the file."""
    weights_sha256: str
    """Of names, shapes and values of the weights, wherever the file lies."""
    step: int
    """Optimizer steps the weights have behind them."""
    weights: str
    """model, or average."""
    objective: str
    tower: str
    image_size: int
    precision: str
    """Arithmetic of the towers: bf16 or fp32."""
    epochs: float | None
    """Passes over the data that the run was to make, None where that is unknown."""
    versions: dict[str, str]
    """Of what evaluated."""
    trained_with: dict[str, str]
    """Versions of what trained."""
    data: str = "YFCC15M"
    """Which published data set the numbers beside it are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One protocol on one set: its scores, or why there are none."""

    asked: str
    """The protocol as it was asked for; "linear" gives scores of two."""
    set: str
    url: str
    settings: dict[str, Any]
    """What the scores depend on beside weights and pictures, as plain data."""
    scores: tuple[Score, ...] = ()
    error: str | None = None
    missing: bool = False
    """The set of a suite is not there: no error of anybody's."""

    @property
    def key(self) -> Key:
        """What makes it the same one, measured again."""
        return self.asked, self.set, self.url

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.scores) and all(score.partial is None for score in self.scores)


def merged(old: Iterable[Outcome], new: Iterable[Outcome]) -> list[Outcome]:
    """All outcomes in the order in which they first came, new ones instead of old ones of the same key.

    A new one without scores does not take away what an old one has.
    """
    found = {outcome.key: outcome for outcome in old}
    for outcome in new:
        if outcome.scores or not (outcome.key in found and found[outcome.key].scores):
            found[outcome.key] = outcome
    return list(found.values())


def to_json(subject: Subject, outcomes: Sequence[Outcome], outstanding: Sequence[Key] = ()) -> bytes:
    """The file: a score a line; the same evaluation gives the same bytes.

    Args:
        outstanding: what was asked for and is not done yet: while there is some, the file is partial.
    """
    head = {
        "format": FORMAT,
        **dataclasses.asdict(subject),
        "partial": bool(outstanding),
        "outstanding": [" ".join(key[:2]) for key in outstanding],
    }
    scores = [
        {"asked": one.asked, "url": one.url, "settings": one.settings, **to_data(score)}
        for one in outcomes
        for score in one.scores
    ]
    failed = [
        {"asked": one.asked, "set": one.set, "url": one.url, "error": one.error, "missing": one.missing}
        for one in outcomes
        if not one.scores
    ]
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, rows in (("scores", scores), ("not_evaluated", failed)):
        content = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        lines.append(f' "{name}": [\n{content}\n ]' if rows else f' "{name}": []')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _outcomes(content: Mapping[str, Any], url: str) -> list[Outcome]:
    found: dict[Key, Outcome] = {}
    for row in content["scores"]:
        one = Outcome(asked=row["asked"], set=row["set"], url=row["url"], settings=row["settings"])
        before = found[one.key].scores if one.key in found else ()
        found[one.key] = dataclasses.replace(one, scores=(*before, from_data(row, url)))
    return list(found.values())


def known_outcomes(url: str, subject: Subject) -> list[Outcome]:
    """What the file at `url` has of the same weights in the same arithmetic; [] where there is no such file.

    A file that is something else is an InputError: it would be written over.
    """
    if not store.exists(url):
        return []
    try:
        content = json.loads(store.read_bytes(url))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        same = all(content[name] == getattr(subject, name) for name in ("weights_sha256", "precision"))
        found = _outcomes(content, url)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{url}: not a file of this slip evaluate ({error!r:.200}); remove it, or name another with --json"
        ) from error
    if not same:
        logger.warning("%s is of other weights or in other arithmetic; its results are replaced", url)
        return []
    return found
