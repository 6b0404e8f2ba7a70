"""How far a run is, from what it writes: metrics.jsonl of its output and the settings kept beside the launch.

In: lines and settings. Out: step, last step, loss, pace and the time to go. Reading is `read_progress`; a run that has
written nothing yet, or whose store does not answer, has no progress.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.errors import YfccError
from slip.config import OptimConfig
from slip.schedule import total_steps

logger = logging.getLogger(__name__)

_TAIL_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the newest record says."""

    step: int
    last_step: int | None
    loss: float | None
    images_per_s: float | None
    eta_s: float | None
    """Seconds of training to go at that pace; None where it is not known."""


def progress_of(lines: bytes, settings: Mapping[str, Any]) -> Progress | None:
    """The newest training record among lines of metrics.jsonl, of a run with these settings (a TrainConfig as JSON).

    The length of an epoch is taken from the record: its step is `epoch` epochs.
    """
    record: dict[str, Any] = {}
    for line in lines.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # torn by a kill, or where the tail begins
            continue
        if isinstance(found, dict) and "step" in found and "epoch" in found:
            record = found
    if not record:
        return None
    step, rate, last_step, eta_s = int(record["step"]), record.get("images_per_s"), None, None
    optim = settings["optim"]
    if record["epoch"] > 0:
        config = OptimConfig(epochs=optim["epochs"], global_batch=optim["global_batch"])
        last_step = total_steps(config, steps_per_epoch=step / record["epoch"])
        last_step = last_step if settings["max_steps"] is None else min(last_step, settings["max_steps"])
        if rate:
            eta_s = max(0, last_step - step) * optim["global_batch"] / rate
    return Progress(step=step, last_step=last_step, loss=record.get("loss"), images_per_s=rate, eta_s=eta_s)


def _tail(url: str, working_folder: Path) -> bytes:
    if not store.is_local(url):
        return store.read_bytes(url) if store.exists(url) else b""
    path = working_folder / url.removeprefix("file://")
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read()
    except FileNotFoundError:
        return b""


def read_progress(output: str, settings: Path, working_folder: Path) -> Progress | None:
    """The progress of a run with this output, whose settings were written to the file `settings`."""
    try:
        lines = _tail(store.join(output, "metrics.jsonl"), working_folder)
        return progress_of(lines, json.loads(settings.read_bytes()))
    except (YfccError, OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: progress is not known (%s)", output, error)
        return None
