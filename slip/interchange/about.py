"""What is written beside exported weights: what they are, and what a picture must look like for them.

In: a trained model and the name of its checkpoint. Out: plain data and a README's text. It names no path: an export is
made to be given away.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD
from slip.evaluate.trained import Trained


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Export:
    """What is exported."""

    trained: Trained
    checkpoint: str
    """File name of the checkpoint, without its folder."""

    @property
    def title(self) -> str:
        """ "slip vitb16 after 89675 steps"."""
        trained = self.trained
        average = ", the average of its weights" if trained.weights == "average" else ""
        steps = f" after {trained.step} steps" if trained.step else ""
        return f"{trained.objective.name} {trained.config.tower}{steps}{average}"


def preprocess(export: Export) -> dict[str, Any]:
    """How a picture becomes what the image tower takes: `slip.data.augment.evaluation_view`, then `normalise`."""
    return {
        "size": export.trained.config.image_size,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "interpolation": "bilinear",
        "resize_mode": "shortest",
        "crop": "center",
    }


def origin(export: Export) -> dict[str, Any]:
    """Where the weights are from, as plain data."""
    trained = export.trained
    return {
        "checkpoint": export.checkpoint,
        "step": trained.step,
        "weights": trained.weights,
        "model": dataclasses.asdict(trained.config),
        "objective": dataclasses.asdict(trained.objective),
        "data_sha256": trained.data_sha256,
        "trained_with": dict(sorted(trained.versions.items())),
    }


def metadata(export: Export) -> dict[str, str]:
    """The same as strings, for a safetensors header; "format" is what other libraries look for there."""
    values = {**origin(export), "preprocess": preprocess(export)}
    strings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {"format": "pt", **strings}


def as_json(content: dict[str, Any]) -> str:
    """Text of a JSON file."""
    return json.dumps(content, indent=1) + "\n"


def readme(export: Export, *, code: str, notes: str, without: Sequence[str] = ()) -> str:
    """A README that says how to load the export.

    Args:
        code: lines of Python.
        notes: a sentence or more on what is in the folder.
        without: parts of the network that are not in it.
    """
    size, digest = export.trained.config.image_size, export.trained.data_sha256
    lines = [
        f"# {export.title}",
        "",
        "```python",
        code,
        "```",
        "",
        notes,
        f"Pictures: shorter side to {size} pixels (bilinear), middle square, ImageNet mean and standard deviation.",
    ]
    if digest is not None:
        lines.append(f"Trained on the data set with the digest sha256 {digest}.")
    if without:
        lines.append(f"Left out: {', '.join(without)}.")
    return "\n".join(lines) + "\n"
