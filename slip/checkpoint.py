"""Checkpoints: everything a run needs to go on, written whole or not at all, to any fsspec URL.

In: a `State` (plain data and tensors) and the run's output. Out: OUTPUT/checkpoints/step-00001200.pt, and back.
There are no random states and no loader state in it: what a step sees and draws follows from the seed and the
step alone. Parameter names are those of the bare model, so a file loads on any world size.
"""

from __future__ import annotations

import dataclasses
import io
import platform
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline import store
from pipeline.errors import CheckpointError
from slip.config import TrainConfig

FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})\.pt")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a checkpoint holds."""

    step: int
    """Optimizer steps done; the next step has this number."""
    samples: int
    """Samples consumed by them."""
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    config: dict[str, Any]
    """The run's `TrainConfig` as plain data."""
    data_sha256: str
    """What was trained on: `slip.data.source.Source.digest`."""
    objective: str
    lanes: int
    """Ordered streams an epoch was cut into (the number in use, never 0)."""
    versions: dict[str, str] = field(default_factory=_versions)
    format: int = 2


def name_of(step: int) -> str:
    """File name of the checkpoint after `step` steps: 1200 -> "step-00001200.pt"."""
    return f"step-{step:08d}.pt"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's file name, None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def _steps(output: str) -> list[int]:
    names = store.list_names(store.join(output, FOLDER))
    return sorted(step for step in map(step_of, names) if step is not None)


def newest(output: str) -> str | None:
    """URL of the newest checkpoint of a run, None when it has none."""
    steps = _steps(output)
    return store.join(output, FOLDER, name_of(steps[-1])) if steps else None


def save(state: State, output: str, *, keep: int) -> str:
    """Write a checkpoint, then delete all but the `keep` newest; its URL. Call on one rank only."""
    buffer = io.BytesIO()
    torch.save({f.name: getattr(state, f.name) for f in dataclasses.fields(state)}, buffer)
    url = store.join(output, FOLDER, name_of(state.step))
    store.write_bytes(url, buffer.getvalue())
    for step in _steps(output)[:-keep]:
        store.delete(store.join(output, FOLDER, name_of(step)))
    return url


def load(url: str) -> State:
    """Read a checkpoint; tensors on the CPU. CheckpointError when it is not one."""
    data = store.read_bytes(url)
    remedy = (
        "checkpoints are written whole or not at all, so this file was damaged later: "
        "delete it to go on from the one before, or restore it"
    )
    try:
        fields = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # torch.load has a class of error for each way in which bytes can be wrong: a bad zip, a bad pickle, a short read.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{url}: not a readable checkpoint ({len(data)} bytes: {reason}); {remedy}") from error
    expected = {f.name for f in dataclasses.fields(State)}
    if not isinstance(fields, dict) or set(fields) != expected:
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise CheckpointError(
            f"{url}: not a checkpoint of this program: it holds {found}, expected {sorted(expected)}; {remedy}"
        )
    return State(**fields)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


# Settings without which the run would no longer be the same one: other weights, another loss, another order of samples.
_FIXED = ("model.", "objective.", "optim.global_batch", "data.shuffle_window", "seed")


def differences(state: State, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ between a checkpoint and `config`: dotted name -> (was, is)."""
    was, now = _flat(state.config), _flat(dataclasses.asdict(config))
    names = [*was, *(name for name in now if name not in was)]
    return {name: (was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)}


def check(state: State, url: str, config: TrainConfig, *, data_sha256: str, lanes: int) -> None:
    """Refuse a checkpoint with which `config` cannot go on: CheckpointError names what differs."""
    changed = {name: pair for name, pair in differences(state, config).items() if name.startswith(_FIXED)}
    if state.data_sha256 != data_sha256:
        changed["data (sha256 of the manifest)"] = (state.data_sha256, data_sha256)
    if state.lanes != lanes:
        changed["data.lanes"] = (state.lanes, lanes)
    if changed:
        listed = ", ".join(f"{name} was {was!r} and is now {now!r}" for name, (was, now) in changed.items())
        raise CheckpointError(f"{url} is from another run: {listed}; go back to the old values, or give a new --output")
