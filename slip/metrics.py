"""What a run writes while it goes on: metrics.jsonl, config.json, boards to look at, progress lines.

One JSON object per line, for programs; the same numbers on the boards (`slip.boards`) and one log line per record, for
people. Only rank 0 writes. A local output is written in place; for a URL the files are kept in a local spool and put
whole at every checkpoint. A resumed run first cuts what was recorded after its checkpoint, so the file is always one
curve.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from pipeline import store
from slip.boards import Board, TensorBoard, WeightsAndBiases
from slip.config import TrainConfig
from slip.data.decode import Pixels
from slip.goodput import TIME, duration

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"
# The first steps pay for start-up (kernels chosen, pipes filled) and are left out of rates.
_FIRST_STEPS = 2
# A line is read by people: more than five a second are only work.
_LIVE_EVERY_S = 0.2

Record = Mapping[str, float | int | None]


def cut_after(lines: bytes, step: int) -> bytes:
    """The lines of a metrics file up to and including `step`; a last line torn by a kill is dropped."""
    kept: list[bytes] = []
    for line in lines.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(record, dict) and record.get("step", math.inf) <= step:
            kept.append(line)
    return b"".join(kept)


class StepClock:
    """Rates of training steps: fed with the durations of steps only, so evaluation and checkpoints stay out."""

    def __init__(self, *, global_batch: int) -> None:
        self._global_batch = global_batch
        self._to_skip = _FIRST_STEPS
        self._steps = self._all_steps = 0
        self._step_s = self._data_s = self._all_s = 0.0

    def add(self, *, step_s: float, data_s: float) -> None:
        """One step took `step_s` seconds, `data_s` of them waiting for its batch."""
        if self._to_skip > 0:
            self._to_skip -= 1
            return
        self._steps += 1
        self._all_steps += 1
        self._step_s += step_s
        self._data_s += data_s
        self._all_s += step_s

    def take(self) -> tuple[float | None, float | None, float | None]:
        """Samples per second, seconds of waiting per step and its share, since the last call; None when none counts."""
        if self._steps == 0:
            return None, None, None
        rate = self._steps * self._global_batch / self._step_s
        data_s, share = self._data_s / self._steps, self._data_s / self._step_s
        self._steps, self._step_s, self._data_s = 0, 0.0, 0.0
        return rate, data_s, share

    def eta_s(self, steps: int) -> float | None:
        """Seconds that `steps` more steps will take at the mean pace so far; None before any counts."""
        return steps * self._all_s / self._all_steps if self._all_steps else None


def progress_line(record: Record, *, steps: int, data_share: float | None, eta_s: float | None) -> str:
    """One line for people about one record; what it does not have is left out, but for the rate.

    {"step": 12, "loss": 3.0, "loss/clip": 2.0, "lr": 1e-3, "images_per_s": 640, "mfu": 0.41}, steps=100 -> "step
    12/100, 640 samples/s, MFU 41%, waits for data 3%, loss 3.0000 (clip 2.000), lr 1.00e-03, ETA 0:01:02"
    """
    losses = " ".join(
        f"{name.removeprefix('loss/')} {value:.3f}"
        for name, value in record.items()
        if name.startswith("loss/") and value is not None
    )
    rate, mfu, loss, lr = (record.get(name) for name in ("images_per_s", "mfu", "loss", "lr"))
    parts = [
        f"step {record['step']}/{steps}",
        f"{rate:.0f} samples/s" if rate is not None else "- samples/s",
        f"MFU {mfu:.0%}" if mfu is not None else "",
        f"waits for data {data_share:.0%}" if data_share is not None else "waits for data -",
        (f"loss {loss:.4f}" + (f" ({losses})" if losses else "")) if loss is not None else "",
        f"lr {lr:.2e}" if lr is not None else "",
        f"ETA {duration(eta_s)}",
    ]
    return ", ".join(part for part in parts if part)


class LiveLine:
    """One line on a terminal, written again in place between log lines; nothing where the stream is none.

    A context manager: inside it every log record first clears the line.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._enabled = self._stream.isatty()
        self._clock = clock
        self._shown = False
        self._next = -math.inf
        self._handlers: list[logging.Handler] = []

    def show(self, text: str) -> None:
        """Show `text` in place of what is there, cut to the terminal's width; a few times a second at most."""
        if not self._enabled or self._clock() < self._next:
            return
        self._next = self._clock() + _LIVE_EVERY_S
        # One column less: in the last one some terminals begin a new line.
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{text[:width]}")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown:
            self._shown = False
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _before_record(self, _: logging.LogRecord) -> bool:
        self.clear()
        return True

    def __enter__(self) -> Self:
        if self._enabled:
            self._handlers = list(logging.getLogger().handlers)
            for handler in self._handlers:
                handler.addFilter(self._before_record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        for handler in self._handlers:
            handler.removeFilter(self._before_record)


class Metrics:
    """The files of one run. `enabled` is False on all ranks but the first, where every call does nothing.

    `put` may be called by another thread than the one that writes.
    """

    def __init__(self, config: TrainConfig, *, resume_step: int, enabled: bool) -> None:
        self.recorded = b""
        """What metrics.jsonl held before it was cut to the checkpoint this run goes on from; b"" when not enabled."""
        self._output = config.output
        self._enabled = enabled
        # Nothing is written while a copy is made, so what is put ends with a whole line; sending it takes long and
        # happens outside of that lock. Puts come one after the other: an older copy must not replace a newer one.
        self._writing, self._putting = threading.Lock(), threading.Lock()
        if not enabled:
            return
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        if store.is_local(self._output):
            self._folder = Path(store.filesystem(self._output)[1])
        else:
            self._spool = tempfile.TemporaryDirectory(prefix="slip-metrics-")
            self._folder = Path(self._spool.name)
        store.check_writable(self._output)
        settings = dataclasses.asdict(config)
        store.write_bytes(store.join(self._output, "config.json"), json.dumps(settings, indent=1).encode() + b"\n")
        # Before the file is cut: where it cannot be opened, nothing has changed.
        self._boards: list[Board] = []
        if config.wandb is not None:
            self._boards.append(WeightsAndBiases(config.wandb, self._output, config=settings))
        self._boards.append(TensorBoard(self._folder / TENSORBOARD, resume_step=resume_step))
        url = store.join(self._output, FILE)
        self.recorded = store.read_bytes(url) if store.exists(url) else b""
        store.write_bytes(str(self._folder / FILE), cut_after(self.recorded, resume_step))
        self._file = (self._folder / FILE).open("ab")

    def write(self, record: Record) -> None:
        """Append one record, with the moment; it must have a "step". What is None or not finite is left out."""
        if not self._enabled:
            return
        # JSON knows no infinity (a gradient norm may be one).
        known = {name: value for name, value in record.items() if value is not None and math.isfinite(value)}
        line = json.dumps({**known, TIME: round(time.time(), 1)}).encode() + b"\n"
        # Boards note the moment themselves, and their float32 could not hold it.
        step = int(known.pop("step"))
        with self._writing:
            self._file.write(line)
            self._file.flush()
            for board in self._boards:
                board.add_scalars(step, known)

    def picture(self, name: str, pixels: Pixels, step: int) -> None:
        """Show a picture, HWC uint8, on the boards."""
        if not self._enabled:
            return
        with self._writing:
            for board in self._boards:
                board.add_picture(step, name, pixels)

    def put(self) -> None:
        """Make everything written so far visible at the output; called with every checkpoint."""
        with self._putting:
            if self._enabled:
                self._put()

    def _put(self) -> None:
        if self._spool is None:
            with self._writing:
                for board in self._boards:
                    board.flush()
            return
        with tempfile.TemporaryDirectory(prefix="put-", dir=self._folder) as copies:
            with self._writing:
                for board in self._boards:
                    board.flush()
                shutil.copy(self._folder / FILE, copies)
                shutil.copytree(self._folder / TENSORBOARD, Path(copies) / TENSORBOARD)
            store.put_file(Path(copies) / FILE, store.join(self._output, FILE))
            for path in sorted((Path(copies) / TENSORBOARD).iterdir()):
                store.put_file(path, store.join(self._output, TENSORBOARD, path.name))

    def close(self) -> None:
        """Put and close the files; every call after it does nothing."""
        with self._putting:
            if not self._enabled:
                return
            self._enabled = False
            self._put()
            self._file.close()
            for board in self._boards:
                board.close()
            if self._spool is not None:
                self._spool.cleanup()
