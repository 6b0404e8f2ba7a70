"""Where the wall time of a run goes: exclusive categories that add up to wall time by construction.

In: the moments at which work changes its kind, and the seconds of earlier attempts, as a checkpoint or an earlier
metrics file holds them. Out: seconds per category, and a table for people. At each moment exactly one category is
current. One thread calls it; what other threads do beside the training takes no wall time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

Category = Literal["start", "compute", "data wait", "communication", "checkpoint", "evaluation", "lost"]
CATEGORIES: tuple[Category, ...] = get_args(Category)

TIME = "time/unix_s"
"""Name of the moment of a record in metrics.jsonl, seconds since 1970."""


def duration(seconds: float | None) -> str:
    """Seconds as h:mm:ss: 3725 -> "1:02:05"; None, which is not known, -> "-"."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def lost_seconds(lines: bytes, step: int) -> float:
    """Seconds an earlier attempt worked after its newest checkpoint, that of `step`, as its metrics file tells.

    They are those between its newest record up to `step` and its last one; an attempt that was killed before its first
    checkpoint has no such record and lost all from its first one on. 0.0 when nothing was recorded after `step`.
    b'{"step": 4, "time/unix_s": 50}\\n{"step": 7, "time/unix_s": 80}\\n', 5 -> 30.0
    """
    kept: list[float] = []
    lost: list[float] = []
    for line in lines.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if isinstance(record, dict) and "step" in record and TIME in record:
            (kept if record["step"] <= step else lost).append(record[TIME])
    if not lost:
        return 0.0
    # The clocks of two nodes may disagree by more than the gap.
    return max(0.0, max(lost) - (max(kept) if kept else min(lost)))


def start_ticks(stat: str) -> int:
    """Clock ticks from boot to the start of a process, from its /proc/PID/stat; 0 where a sandbox hides them.

    The second field is the program's name in brackets, which may itself hold spaces and brackets.
    """
    return int(stat.rpartition(")")[2].split()[19])


def process_started() -> float:
    """When this process began, on the scale of `time.perf_counter`; now where the system does not tell."""
    now = time.perf_counter()
    try:
        ticks = start_ticks(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace"))
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # AttributeError: only Linux has this clock
        return now
    return now - age_s if ticks > 0 and age_s > 0 else now


class Goodput:
    """Seconds per category of this attempt, and of all attempts of the run.

    goodput = Goodput(state.goodput, started=process_started())
    goodput.switch("compute")
    with goodput.spend("data wait"):
        batch = next(feed)
    """

    def __init__(
        self,
        before: Mapping[str, float] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        started: float | None = None,
    ) -> None:
        """`before`: seconds of earlier attempts by category; `started`: the clock's time when this attempt began."""
        self._clock = clock
        self._before: dict[str, float] = {name: float((before or {}).get(name, 0.0)) for name in CATEGORIES}
        self._seconds: dict[Category, float] = dict.fromkeys(CATEGORIES, 0.0)
        self._current: Category = "start"
        self._since = clock() if started is None else started

    def _settle(self) -> None:
        """Give the time since the last call to the current category."""
        now = self._clock()
        self._seconds[self._current] += now - self._since
        self._since = now

    def switch(self, category: Category) -> None:
        """From now on time goes to `category`."""
        self._settle()
        self._current = category

    @contextmanager
    def spend(self, category: Category) -> Iterator[None]:
        """Time in the block goes to `category`, after it to the one that was current before."""
        earlier = self._current
        self.switch(category)
        try:
            yield
        finally:
            self.switch(earlier)

    def move(self, source: Category, target: Category, seconds: float) -> None:
        """Give `seconds` of `source`, measured elsewhere, to `target`; no more than this attempt has of it."""
        self._settle()
        seconds = max(0.0, min(seconds, self._seconds[source]))
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    def add(self, category: Category, seconds: float) -> None:
        """Count `seconds` of an earlier attempt that its checkpoint does not know, for the sum of all attempts."""
        self._before[category] += seconds

    def this_attempt(self) -> dict[str, float]:
        """Seconds per category since this attempt began, up to now; their sum is its wall time."""
        self._settle()
        return {name: self._seconds[name] for name in CATEGORIES}

    def seconds(self) -> dict[str, float]:
        """Seconds per category of all attempts, up to now; the next attempt's `before`."""
        return {name: self._before[name] + seconds for name, seconds in self.this_attempt().items()}

    def table(self) -> str:
        """A table for people: category, h:mm:ss and share of the wall time; two of each when there were attempts."""
        columns = {"this attempt": self.this_attempt()}
        if any(self._before.values()):
            columns["all attempts"] = {name: self._before[name] + columns["this attempt"][name] for name in CATEGORIES}
        walls = {heading: sum(column.values()) for heading, column in columns.items()}

        def row(label: str, cells: list[tuple[float, float]]) -> str:
            shown = "".join(
                f"  {duration(seconds):>10}{seconds / wall if wall else 0.0:>9.1%}" for seconds, wall in cells
            )
            return f"{label:<13}{shown}"

        rows = [f"{'':<13}" + "".join(f"  {heading:>19}" for heading in columns)]
        rows += [row(name, [(columns[h][name], walls[h]) for h in columns]) for name in CATEGORIES]
        rows.append(row("total", [(wall, wall) for wall in walls.values()]))
        shares = [f"{columns[h]['compute'] / walls[h] if walls[h] else 0.0:.1%} of {h}" for h in columns]
        rows.append(f"goodput (share of compute): {', '.join(shares)}")
        return "\n".join(rows)
