"""What a run writes while it goes on: metrics.jsonl, TensorBoard event files, config.json, progress lines.

One JSON object per line, for programs; one log line per record, for people. Only rank 0 writes. A local output is
written in place; for a URL both are kept in a local spool and put whole at every checkpoint. A resumed run first
cuts what was recorded after its checkpoint, so the file is always one curve.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import store
from slip.config import TrainConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"
# The first steps pay for start-up (kernels chosen, pipes filled) and are left out of rates.
_FIRST_STEPS = 2

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


def duration(seconds: float | None) -> str:
    """Seconds as h:mm:ss: 3725 -> "1:02:05"."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def progress_line(record: Record, *, steps: int, data_share: float | None, eta_s: float | None) -> str:
    """One line for people about one record."""
    parts = " ".join(
        f"{name.removeprefix('loss/')} {value:.3f}"
        for name, value in record.items()
        if name.startswith("loss/") and value is not None
    )
    rate = record.get("images_per_s")
    return ", ".join(
        [
            f"step {record['step']}/{steps}",
            f"loss {record['loss']:.4f}" + (f" ({parts})" if parts else ""),
            f"{rate:.0f} samples/s" if rate is not None else "- samples/s",
            f"waits for data {data_share:.0%}" if data_share is not None else "waits for data -",
            f"lr {record['lr']:.2e}",
            f"ETA {duration(eta_s)}",
        ]
    )


class Metrics:
    """The files of one run. `enabled` is False on all ranks but the first, where every call does nothing."""

    def __init__(self, config: TrainConfig, *, resume_step: int, enabled: bool) -> None:
        self._output = config.output
        self._enabled = enabled
        if not enabled:
            return
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        if store.is_local(self._output):
            folder = Path(store.filesystem(self._output)[1])
        else:
            self._spool = tempfile.TemporaryDirectory(prefix="slip-metrics-")
            folder = Path(self._spool.name)
        store.check_writable(self._output)
        settings = json.dumps(dataclasses.asdict(config), indent=1).encode()
        store.write_bytes(store.join(self._output, "config.json"), settings + b"\n")
        url = store.join(self._output, FILE)
        kept = cut_after(store.read_bytes(url), resume_step) if store.exists(url) else b""
        store.write_bytes(str(folder / FILE), kept)
        self._folder = folder
        self._file = (folder / FILE).open("ab")
        self._board = self._open_board(resume_step)

    def _open_board(self, resume_step: int) -> SummaryWriter:
        # Imported here because ranks that write nothing need not pay for it.
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what an earlier process recorded after the checkpoint this one goes on from.
        return SummaryWriter(str(self._folder / TENSORBOARD), purge_step=resume_step + 1 if resume_step else None)

    def write(self, record: Record) -> None:
        """Append one record; it must have a "step". What is None or not finite is left out."""
        if not self._enabled:
            return
        # JSON knows no infinity (a gradient norm may be one).
        known = {name: value for name, value in record.items() if value is not None and math.isfinite(value)}
        self._file.write(json.dumps(known).encode() + b"\n")
        self._file.flush()
        for name, value in known.items():
            if name != "step":
                self._board.add_scalar(name, value, int(known["step"]))

    def put(self) -> None:
        """Make everything written so far visible at the output; called with every checkpoint."""
        if not self._enabled:
            return
        self._board.flush()
        if self._spool is None:
            return
        store.put_file(self._folder / FILE, store.join(self._output, FILE))
        for path in sorted((self._folder / TENSORBOARD).iterdir()):
            store.put_file(path, store.join(self._output, TENSORBOARD, path.name))

    def close(self) -> None:
        """Put and close the files."""
        if not self._enabled:
            return
        self.put()
        self._file.close()
        self._board.close()
        if self._spool is not None:
            self._spool.cleanup()
