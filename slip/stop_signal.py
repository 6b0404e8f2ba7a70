"""Signals that ask a run to stop: remembered, so that the step under way is finished and a checkpoint written."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """Remembers SIGTERM and SIGUSR2 while it is entered, once or several times over; further ones change nothing."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._entered = 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def __enter__(self) -> StopSignal:
        self._entered += 1
        # Python hands signals to its main thread only; who trains in another one has to catch them there.
        if self._entered == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR2):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered == 0:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
