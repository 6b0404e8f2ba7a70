"""When units were fetched and how much came: `WORK/fetched/timing.jsonl`, one JSON object per line and finished unit.

Lines are appended by whoever fetches, several machines at once perhaps, so the last one may be torn and a unit may
occur twice. Times are for people (report, status, estimate): nothing that is built depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAUSE_S = 300.0
"""Seconds without any download above which a build counts as interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One unit that was fetched."""

    unit: int
    ended_unix: float
    """When it was finished, in seconds since 1970."""
    seconds: float
    """How long it took."""
    rows: int
    pictures: int
    """Good ones."""
    num_bytes: int
    """Of the good pictures."""

    @property
    def started_unix(self) -> float:
        """When it was begun."""
        return self.ended_unix - self.seconds


def timing_path(work: Path) -> Path:
    """Where the times of a build are noted."""
    return work / "fetched" / "timing.jsonl"


def _parse(line: bytes) -> Timing | None:
    try:
        found = json.loads(line)
        return Timing(
            unit=int(found["unit"]),
            ended_unix=float(found["ended_unix"]),
            seconds=max(0.0, float(found["seconds"])),
            rows=int(found["rows"]),
            pictures=int(found["pictures"]),
            num_bytes=int(found["bytes"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def read_timing(work: Path) -> list[Timing]:
    """Every unit's line, by the time it ended; a torn line is left out, [] when nothing was noted."""
    try:
        lines = timing_path(work).read_bytes().splitlines()
    except OSError:
        return []
    found = [timing for timing in map(_parse, lines) if timing is not None]
    return sorted(found, key=lambda timing: (timing.ended_unix, timing.unit))


def busy_spans(timings: Sequence[Timing]) -> list[tuple[float, float]]:
    """When the build was fetching, as disjoint ascending spans in unix seconds.

    Units at [0, 5], [3, 9], [20, 30] and [900, 950] -> [(0, 30), (900, 950)]: short gaps, as between two groups of
    units, are part of the work; in longer ones the build was not running.
    """
    spans: list[tuple[float, float]] = []
    for start, end in sorted((timing.started_unix, timing.ended_unix) for timing in timings):
        if spans and start <= spans[-1][1] + PAUSE_S:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def pictures_per_s(timings: Sequence[Timing]) -> float | None:
    """Good pictures in a second of the whole build, pauses left out; None when nothing was measured."""
    busy_s = sum(end - start for start, end in busy_spans(timings))
    pictures = sum(timing.pictures for timing in timings)
    return pictures / busy_s if busy_s > 0 and pictures else None
