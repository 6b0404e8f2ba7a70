"""The verb `slip export`: a trained model in the form of another library.

In: a checkpoint (one of the published code too) or a run. Out: a folder that open_clip, timm, safetensors or an ONNX
runtime loads, with a README that says how. Each form is a module with `write` and the name of its `LAST` file.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

from pipeline.errors import ConfigError
from slip.command import run_verb

logger = logging.getLogger(__name__)

Form = Literal["open_clip", "timm", "safetensors", "onnx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Export a trained model."""

    checkpoint: tyro.conf.Positional[str]
    """File or URL of a checkpoint, or folder or URL of a run: its best checkpoint, else its newest."""
    to: Form
    """open_clip = both towers, for open_clip.create_model; timm = the image tower, for timm.create_model;
    safetensors = all tensors by their published names; onnx = each tower as a graph."""
    output: str
    """Folder or URL to write. One that holds anything else is left as it is, and refused."""
    weights: Literal["model", "average"] | None = None
    """The weights, or their average along training. Default: the average where the run kept one (--ema-decay), as
    slip evaluate takes it."""

    def __post_init__(self) -> None:
        if not self.output.strip("/"):
            raise ConfigError(f"--output is {self.output!r}; give a folder or URL of its own")


def parse(argv: Sequence[str]) -> ExportConfig:
    """Settings from a command line."""
    return tyro.cli(
        ExportConfig,
        args=list(argv),
        prog="slip export",
        description=(
            "Write a trained model for another library, with the picture size and normalisation it needs and a README "
            f"on how to load it. Forms: {', '.join(get_args(Form))}. The same command again changes nothing."
        ),
    )


def export(config: ExportConfig) -> str:
    """Do all of it; what to print."""
    from slip.evaluate.trained import find, load
    from slip.interchange.about import Export
    from slip.interchange.folder_out import write_folder

    form = importlib.import_module(f"slip.interchange.{config.to}_out")
    found = find(config.checkpoint)
    logger.info("checkpoint %s (%s)", found.url, found.why)
    trained = load(found.url, config.weights)
    exported = Export(trained=trained, checkpoint=found.url.rpartition("/")[2])

    def fill(folder: Path) -> None:
        form.write(exported, folder)

    written = write_folder(config.output, fill, last=form.LAST)
    state = "" if written else " was there already, the same"
    return f"{config.output}{state}: {exported.title}, for {config.to}; its README.md says how to load it\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Export; 0 done, 1 error, 2 usage, 130 interrupted."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def work() -> int:
        sys.stdout.write(export(parse(sys.argv[1:] if argv is None else argv)))
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
