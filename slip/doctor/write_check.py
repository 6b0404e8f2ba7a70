"""How fast rank 0 writes a checkpoint to the run's output, and that it is there whole.

In: the output and a size. A state of random numbers is written as `slip.checkpoint_writer` does it: serialised into a
local file, which gets its name when it is complete. Out: MB a second, judged.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import store
from pipeline.errors import StoreError
from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from slip.doctor.output_check import trial_folder
from slip.doctor.traces import Traces

CHECK = "checkpoint"

_TENSOR_BYTES = 8_000_000
_ADVICE = "free some space or make the place writable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A trial checkpoint."""

    num_bytes: int
    seconds: float
    """Until it had its name."""


def trial_state(num_bytes: int) -> dict[str, Tensor]:
    """Tensors of so many bytes in all; random, or a disk that compresses would look faster than it is."""
    draw = np.random.default_rng(0)
    sizes = [min(_TENSOR_BYTES, num_bytes - begin) for begin in range(0, num_bytes, _TENSOR_BYTES)]
    return {f"tensor-{i}": torch.from_numpy(draw.integers(256, size=n, dtype=np.uint8)) for i, n in enumerate(sizes)}


def write_trial(output: str, num_bytes: int, token: str, traces: Traces) -> Written:
    """Write it, see that all of it is there, and remove it."""
    name = f"slip-doctor-{token}.pt"
    if store.is_local(output):
        # Made before if the shared folder was tried and could be written to; else this says what is wrong.
        folder = trial_folder(output, token)
        if not folder.exists():
            traces.folder(folder)
        url, part = str(folder / name), folder / f"{name}.part"
    else:
        url, part = traces.file(store.join(output, name)), Path(tempfile.gettempdir()) / f"{name}.part"
        traces.file(str(part))
    state = trial_state(num_bytes)
    began = time.perf_counter()
    try:
        with part.open("wb") as file:
            torch.save(state, file)
    except OSError as error:
        raise StoreError(f"{url}: cannot write: {error} ({part})") from error
    written_bytes = part.stat().st_size
    store.move_file(part, url)
    seconds = time.perf_counter() - began
    found = store.size(url)
    if found != written_bytes:
        raise StoreError(f"{url}: has {found} bytes after writing {written_bytes}")
    store.delete(url)
    return Written(num_bytes=written_bytes, seconds=seconds)


def judge_written(answers: Sequence[Answer[Written]], config: DoctorConfig) -> list[Finding]:
    """Rank 0's rate against the limit."""
    node, written = next((answer.node, answer.value) for answer in answers if answer.value is not None)
    rate = written.num_bytes / max(written.seconds, 1e-9) / 1e6
    text = f"{written.num_bytes / 1e6:.0f} MB to {config.output} in {written.seconds:.2f} s, {rate:,.0f} MB/s"
    if rate < config.min_write_mb_s:
        text += f"; --min-write-mb-s asks for {config.min_write_mb_s:g}"
        advice = "write elsewhere, or less often (--checkpoint-every): the next one waits for the last"
        return [Finding(level="WARN", check=CHECK, where=(node,), found=text, advice=advice)]
    return [Finding(level="OK", check=CHECK, where=(node,), found=text)]
