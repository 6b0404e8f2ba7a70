"""How far a long step is: a bar with rate and remaining time on a terminal, a log line now and then elsewhere.

What is counted (rows, bytes, samples) is the caller's; nothing here is read back by a program.
"""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Literal, Self, TextIO

from tqdm import tqdm

log = logging.getLogger(__name__)

Unit = Literal["rows", "bytes", "samples", "pictures", "texts"]

LINE_EVERY_S = 15.0
"""Seconds between two lines where the output is a file or a cluster's log."""

_LINE = "{desc}: {percentage:3.0f} % · {n_fmt} of {total_fmt} · {rate_fmt} · {elapsed} gone, {remaining} to go{postfix}"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} · {rate_fmt} · {elapsed} gone{postfix}"


def format_line(label: str, done: int, *, total: int | None, elapsed_s: float, unit: Unit, note: str = "") -> str:
    """One line of progress.

    ("fetch", 50, total=200, elapsed_s=10, unit="samples") ->
    "fetch:  25 % · 50.0 of 200 · 5.00 samples/s · 00:10 gone, 00:30 to go"
    """
    line: str = tqdm.format_meter(
        done,
        total,
        elapsed_s,
        prefix=label,
        unit=_unit(unit),
        unit_scale=True,
        unit_divisor=1000,
        bar_format=_LINE if total else _LINE_WITHOUT_TOTAL,
        postfix=note or None,
    )
    return line.strip()


def _unit(unit: Unit) -> str:
    return "B" if unit == "bytes" else f" {unit}"


class Progress:
    """Counts upwards and shows it; use as a context manager.

    with Progress("select", unit="bytes", total=size) as progress:
        progress.advance_to(position, note=f"{rows:,} rows")
    """

    def __init__(
        self,
        label: str,
        *,
        unit: Unit,
        total: int | None = None,
        initial: int = 0,
        stream: TextIO | None = None,
        line_every_s: float = LINE_EVERY_S,
        delay_s: float = 0.0,  # what takes less is not shown
    ) -> None:
        stream = sys.stderr if stream is None else stream
        self._label, self._unit, self._total = label, unit, total
        self._line_every_s, self._delay_s = line_every_s, delay_s
        self._initial = self._done = initial  # what an earlier run did must not flatter this run's rate
        self._note = ""
        self._started = self._said = time.perf_counter()
        self._bar = (
            tqdm(
                total=total,
                initial=initial,
                desc=label,
                unit=_unit(unit),
                unit_scale=True,
                file=stream,
                dynamic_ncols=True,
                delay=delay_s,
            )
            if stream.isatty()
            else None
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def advance(self, count: int, *, note: str = "") -> None:
        """Count `count` more as done."""
        self.advance_to(self._done + count, note=note)

    def advance_to(self, done: int, *, note: str = "") -> None:
        """Set what is done so far; `note` is shown behind it."""
        step, self._done, self._note = done - self._done, done, note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(step)
        elif time.perf_counter() - self._said >= self._line_every_s:
            self._say()

    def close(self) -> None:
        """Show the final count."""
        if self._bar is not None:
            self._bar.close()
        elif self.elapsed_s >= self._delay_s:
            self._say()

    def _say(self) -> None:
        self._said = time.perf_counter()
        remaining = None if self._total is None else self._total - self._initial
        log.info(
            "%s",
            format_line(
                self._label,
                self._done - self._initial,
                total=remaining,
                elapsed_s=self.elapsed_s,
                unit=self._unit,
                note=self._note,
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
