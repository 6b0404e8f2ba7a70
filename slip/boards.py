"""Where numbers and pictures of a run are looked at while it goes on: TensorBoard, Weights & Biases.

In: records and pictures, step by step. Out: what either program shows. Both hide behind `Board`; the package wandb is
imported only where a project is set. metrics.jsonl, which programs read, is `slip.metrics`'s part.

Letters: B samples, S side of the square view in pixels.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline import store
from pipeline.errors import ConfigError
from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD
from slip.data.decode import Pixels

WANDB_FILE = "wandb.json"
"""Beside metrics.jsonl: under which project and id Weights & Biases knows this run."""

_GAP, _HEADING = 4, 18

Scalars = Mapping[str, float | int]


class Board(Protocol):
    """Something that shows a run. One thread at a time calls it."""

    def add_scalars(self, step: int, record: Scalars) -> None:
        """Show the numbers of one record."""

    def add_picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Show one picture, HWC uint8."""

    def flush(self) -> None:
        """Return when everything so far is in files, or on its way where there are none."""

    def close(self) -> None:
        """Flush; nothing comes after it."""


class TensorBoard:
    """Event files in a local folder; a resumed run hides what was recorded after its checkpoint."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        # Imported here because ranks that write nothing need not pay for it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def add_scalars(self, step: int, record: Scalars) -> None:
        """Show the numbers of one record."""
        for name, value in record.items():
            self._writer.add_scalar(name, value, step)

    def add_picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Show one picture, HWC uint8."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Return when everything so far is in the event file."""
        self._writer.flush()

    def close(self) -> None:
        """Flush; nothing comes after it."""
        self._writer.close()


def wandb_module() -> ModuleType:
    """The package wandb; a ConfigError that says how to get it where it is not installed."""
    try:
        module = importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"--wandb needs the package wandb ({error}); pip install wandb, or leave out --wandb"
        ) from error
    # The folder ./wandb, which the package leaves behind where it ran, can be imported too.
    if not hasattr(module, "init"):
        raise ConfigError("--wandb needs the package wandb, which is not installed; pip install wandb")
    return module


def _wandb_id(output: str, project: str) -> str:
    """The id under which the run is known in `project`, from OUTPUT/wandb.json, which is made where it is missing."""
    url = store.join(output, WANDB_FILE)
    if store.exists(url):
        known = json.loads(store.read_bytes(url))
        if known["project"] == project:
            return str(known["id"])
    run_id = secrets.token_hex(8)
    store.write_bytes(url, json.dumps({"project": project, "id": run_id}).encode() + b"\n")
    return run_id


class WeightsAndBiases:
    """A run in Weights & Biases, the same one however often it is resumed; WANDB_MODE and WANDB_DIR are heeded.

    Its history cannot be cut: what was recorded after the checkpoint of a killed attempt stays and is drawn over, each
    step by its newest value.
    """

    def __init__(self, project: str, output: str, *, config: Mapping[str, object]) -> None:
        self._wandb = wandb_module()
        folder = str(store.filesystem(output)[1]) if store.is_local(output) else None
        try:
            self._run: Any = self._wandb.init(
                project=project,
                id=_wandb_id(output, project),
                resume="allow",
                dir=os.environ.get("WANDB_DIR", folder),
                config=dict(config),
                # A resumed run may have other settings, e.g. more steps.
                allow_val_change=True,
            )
        except self._wandb.Error as error:
            raise ConfigError(
                f"--wandb {project}: {error}; log in with `wandb login`, set WANDB_MODE=offline, or leave it out"
            ) from error
        # Its own step only grows and would refuse what a resumed run repeats; so "step" is a number like all others.
        self._run.define_metric("*", step_metric="step")

    def add_scalars(self, step: int, record: Scalars) -> None:
        """Show the numbers of one record."""
        self._run.log({"step": step, **record})

    def add_picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Show one picture, HWC uint8."""
        self._run.log({"step": step, name: self._wandb.Image(pixels)})

    def flush(self) -> None:
        """Nothing: a process of its own sends what there is."""

    def close(self) -> None:
        """Wait until everything is sent; nothing comes after it."""
        self._run.finish()


def denormalised(view_B3SS: Tensor) -> Tensor:
    """Views as the towers get them, floats with ImageNet's mean and deviation removed, back as uint8 on the CPU.

    What is uint8 already is only brought to the CPU. 0.0 in the red channel -> 124, ImageNet's mean.
    """
    view_B3SS = view_B3SS.detach().cpu()
    if view_B3SS.dtype == torch.uint8:
        return view_B3SS
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((view_B3SS.to(torch.float32) * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def view_grid(views: Sequence[Tensor], kinds: Sequence[str], *, rows: int = 8) -> Pixels:
    """One picture (HWC) of the views of a step: a row for each of the first samples, a column for each view.

    Args:
        views: (B, 3, S, S) each, as the towers get them; S may differ between views.
        kinds: the heading of each column.
        rows: samples shown at most.
    """
    columns = [denormalised(view_B3SS[:rows]).permute(0, 2, 3, 1).numpy() for view_B3SS in views]
    # A row is as high as its highest view.
    height = max(column.shape[1] for column in columns) + _GAP
    width = sum(column.shape[2] + _GAP for column in columns) + _GAP
    page = Image.new("RGB", (width, _HEADING + len(columns[0]) * height + _GAP), "white")
    draw = ImageDraw.Draw(page)
    x = _GAP
    for column, kind in zip(columns, kinds, strict=True):
        draw.text((x, 3), kind, fill="black")
        for row, tile in enumerate(column):
            page.paste(Image.fromarray(np.ascontiguousarray(tile)), (x, _HEADING + row * height + _GAP))
        x += column.shape[2] + _GAP
    return np.asarray(page)
