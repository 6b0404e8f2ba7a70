"""Checkpoints: everything a run needs to go on, and how to find, read and judge one, at any fsspec URL.

In: a run's output, or the URL of a checkpoint. Out: a `State` (plain data and tensors), the newest and the best
checkpoint, and what keeps a run from going on with one. Parameter names are those of the bare model, so a file loads
on any world size. Writing is left to `slip.checkpoint_writer`: OUTPUT/checkpoints/step-00001200.pt, and best.json
beside it, which names the checkpoint with the best zero-shot accuracy.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import platform
import random
import re
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import store
from pipeline.errors import CheckpointError, StoreError
from slip.config import TrainConfig

FOLDER = "checkpoints"
BEST = "best.json"
METRIC = "zeroshot/top1"
FORMAT = 3
_NAME = re.compile(r"step-(\d{8,})\.pt")
_DISTRIBUTIONS = {"torch": "torch", "timm": "timm", "numpy": "numpy", "slip": "yfcc15m-slip"}
_CODE = Path(__file__).resolve().parents[1]
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def commit_of(checkout: Path) -> str | None:
    """The commit a git checkout is at, read from its files; None where there is no checkout.

    The copy of the code that `slip launch` makes has a file COMMIT instead.
    """

    def text(path: Path) -> str:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    try:
        git = checkout / ".git"
        if git.is_file():  # a worktree or submodule says there where its files are
            git = checkout / text(git).removeprefix("gitdir: ")
        common = git / (text(git / "commondir") or ".")
        head = text(git / "HEAD") or text(checkout / "COMMIT").partition(" ")[0]
        if head.startswith("ref: "):
            ref = head.removeprefix("ref: ")
            packed = (line.split(" ") for line in text(common / "packed-refs").splitlines())
            head = text(git / ref) or text(common / ref) or next((line[0] for line in packed if line[1:] == [ref]), "")
    except (OSError, ValueError):
        return None
    return head if _COMMIT.fullmatch(head) else None


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    commit = commit_of(_CODE)
    return found if commit is None else {**found, "commit": commit}


def versions() -> dict[str, str]:
    """Versions of what computes here, and the commit of this code where it is a checkout; unknown ones are left out."""
    return dict(_versions())


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a checkpoint holds."""

    step: int
    """Optimizer steps done; the next step has this number."""
    samples: int
    """Samples consumed by them: where the loader stands."""
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    """By parameter name, whole on any world size: torch's `get_optimizer_state_dict` with full_state_dict."""
    ema: dict[str, Tensor] | None
    """The average of the weights, None where the run keeps none."""
    config: dict[str, Any]
    """The run's `TrainConfig` as plain data."""
    data_sha256: str
    """What was trained on: `slip.data.source.Source.digest`."""
    objective: str
    gather: str
    """Which mathematics ran: gradients across ranks "exact", or as in the published code ("paper")."""
    lanes: int
    """Ordered streams an epoch was cut into (the number in use, never 0)."""
    skipped: int
    """Steps left out so far because their loss or gradient was not finite."""
    random: dict[str, Any]
    """`random_states` of process 0."""
    goodput: dict[str, float]
    """Seconds the run has spent so far, by what they were spent on."""
    versions: dict[str, str] = field(default_factory=versions)
    format: int = FORMAT


def random_states() -> dict[str, Any]:
    """The global random states of this process, as plain data that weights_only loads.

    Training draws nothing from them: order, captions, crops and masks follow from seed, epoch and sample. They are
    kept for code that users add.
    """
    version, words, gauss = random.getstate()
    # The legacy state is the one global state numpy has.
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": [version, list(words), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }


def restore_random_states(found: dict[str, Any]) -> None:
    """Put back what `random_states` gave; a GPU's state stays where there is no GPU on either side."""
    torch.set_rng_state(found["torch"])
    if found["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"])
    version, words, gauss = found["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = found["numpy"]
    state = (kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached)
    np.random.set_state(state)  # noqa: NPY002


def name_of(step: int) -> str:
    """File name of the checkpoint after `step` steps: 1200 -> "step-00001200.pt"."""
    return f"step-{step:08d}.pt"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's file name, None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def url_of(output: str, step: int) -> str:
    """Where the checkpoint after `step` steps is."""
    return store.join(output, FOLDER, name_of(step))


def steps_of(output: str) -> list[int]:
    """The steps of which a run has a checkpoint, in order."""
    names = store.list_names(store.join(output, FOLDER))
    return sorted(step for step in map(step_of, names) if step is not None)


def newest(output: str) -> str | None:
    """URL of the newest checkpoint of a run, None when it has none. Whatever has the name is complete."""
    steps = steps_of(output)
    return url_of(output, steps[-1]) if steps else None


def best(output: str) -> tuple[str, float] | None:
    """URL and zero-shot accuracy of the best checkpoint of a run, None when none was evaluated or it is gone."""
    url = store.join(output, FOLDER, BEST)
    if not store.exists(url):
        return None
    data = store.read_bytes(url)
    try:
        found = json.loads(data)
        step, value = int(found["step"]), float(found["value"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f'{url}: holds {data[:80]!r}, expected {{"step": ..., "metric": "{METRIC}", "value": ...}}; delete it: the '
            "next evaluation begins anew"
        ) from error
    named = url_of(output, step)
    return (named, value) if store.exists(named) else None


def _source(url: str) -> str | io.BytesIO:
    """What torch.load reads: a local file as it is, as a copy of its bytes would take its size in memory once more."""
    if not store.is_local(url):
        return io.BytesIO(store.read_bytes(url))
    if store.size(url) is None:
        raise StoreError(f"{url}: cannot read: there is no such file; give one of those in the run's {FOLDER}/")
    path: str = store.filesystem(url)[1]
    return path


def _check_format(url: str, fields: Any, remedy: str) -> None:
    found = fields.get("format") if isinstance(fields, dict) else None
    expected = {f.name for f in dataclasses.fields(State)}
    if isinstance(found, int) and found < FORMAT:
        raise CheckpointError(
            f"{url}: a checkpoint of an earlier version (format {found}, this one reads {FORMAT}): finish the run with "
            "that version, or begin a new one with another --output"
        )
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(
            f"{url}: a checkpoint of a later version (format {found}, this one reads {FORMAT}): update slip"
        )
    if not isinstance(fields, dict) or set(fields) != expected:
        holds = sorted(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
        raise CheckpointError(
            f"{url}: not a checkpoint of this program: it holds {holds}, expected {sorted(expected)}; {remedy}"
        )


def load(url: str) -> State:
    """Read a checkpoint; tensors on the CPU. CheckpointError when it is not one."""
    source = _source(url)
    remedy = (
        "checkpoints are written whole or not at all, so this file was damaged later: "
        "delete it to go on from the one before, or restore it"
    )
    try:
        fields = torch.load(source, map_location="cpu", weights_only=True)
    # torch.load has a class of error for each way in which bytes can be wrong: a bad zip, a bad pickle, a short read.
    except Exception as error:
        # In a file that was cut it seeks before the beginning: EINVAL. Other numbers are the disk's or the network's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise StoreError(f"{url}: cannot read: {error}; if it may pass, run the same command again") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{url}: not a readable checkpoint ({store.size(url)} bytes: {reason}); {remedy}"
        ) from error
    _check_format(url, fields, remedy)
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
# Data sets are not among them: their digest says whether a path that changed still leads to the same samples.
_FIXED = ("model.", "objective.", "optim.global_batch", "data.shuffle_window", "seed", "ema_decay")
# How the same numbers are computed.
_FREE = ("model.compile", "model.activation_checkpointing")


def differences(state: State, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ between a checkpoint and `config`: dotted name -> (was, is)."""
    was, now = _flat(state.config), _flat(dataclasses.asdict(config))
    names = [*was, *(name for name in now if name not in was)]
    return {name: (was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)}


def check(state: State, url: str, config: TrainConfig, *, data_sha256: str, lanes: int) -> None:
    """Refuse a checkpoint with which `config` cannot go on: CheckpointError names what differs."""
    changed = {
        name: pair for name, pair in differences(state, config).items() if name.startswith(_FIXED) and name not in _FREE
    }
    if state.data_sha256 != data_sha256:
        changed["data (sha256 of the manifest)"] = (state.data_sha256, data_sha256)
    if state.lanes != lanes:
        changed["data.lanes"] = (state.lanes, lanes)
    if changed:
        listed = ", ".join(f"{name} was {was!r} and is now {now!r}" for name, (was, now) in changed.items())
        raise CheckpointError(f"{url} is from another run: {listed}; go back to the old values, or give a new --output")
