"""The verb `slip evaluate`: how good a trained model is, by any of the protocols, on labelled sets.

In: a checkpoint or a run, and sets by suite, by name or by place. Out: one table on standard output, a JSON file with
exact counts and an HTML page. Here are the settings, read without torch; `slip.evaluate.evaluation` does the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import tyro

from pipeline.errors import ConfigError
from slip.command import run_verb
from slip.evaluate.finetune_config import FinetuneConfig
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.settings import KnnConfig, Reading

Protocol = Literal["zeroshot", "linear", "finetune", "knn", "retrieval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a trained model."""

    checkpoint: tyro.conf.Positional[str]
    """File or URL of a checkpoint, or folder or URL of a run: its best checkpoint, else its newest."""
    protocol: tuple[Protocol, ...] = ("zeroshot",)
    """zeroshot = which class's prompts does a picture's embedding lie closest to; linear = classifiers on the frozen
    tower's features, by the published protocol and by a fast one; finetune = the whole tower trained on labels; knn =
    votes of the nearest pictures of the train split; retrieval = captions for pictures and pictures for captions."""
    suite: tuple[str, ...] = ()
    """paper (the 26 sets of the paper), imagenet, or names of sets; where they lie says the catalogue. A set that the
    catalogue has not is listed and left out."""
    sets: tuple[str, ...] = ()
    """Folders or URLs of labelled sets: WebDataset tars in CLIP_benchmark's layout, folders of pictures by class, or
    Parquet; or torchvision:CIFAR10:/folder."""
    captioned: tuple[str, ...] = ()
    """For retrieval: names in the catalogue, or folders or URLs, of pictures with captions: tars (jpg and txt), Parquet
    (image and captions), or Karpathy's JSON."""
    catalogue: str | None = None
    """File or URL that says where sets lie (slip/evaluate/datasets.example.toml). Default: SLIP_CATALOGUE, else
    datasets.toml in the current folder."""
    weights: Literal["model", "average"] | None = None
    """The weights, or their average along training. Default: the average where the run kept one (--ema-decay), as
    training's own evaluation takes it."""
    json: str | None = None
    """File or URL for the results; the page lies beside it and ends in .html. Default: evaluation/step-00001200.json in
    the run's folder; none for a checkpoint that lies elsewhere."""
    again: bool = False
    """Evaluate what the file already has of these weights and settings, too. (A classifier or network that is trained
    lies beside it in a .pt file and is not trained again; delete that to do so.)"""
    batch: int = 256
    """Pictures (and prompts) per forward pass and process (linear and finetune have their own)."""
    workers: int | None = None
    """Threads per process that decode. None: as many as it has cores."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        if not self.protocol:
            raise ConfigError("--protocol names none; leave it out for zeroshot")
        classifying = [one for one in self.protocol if one != "retrieval"]
        if classifying and not self.sets and not self.suite:
            raise ConfigError(f"no labelled set for {' '.join(classifying)}; name some with --suite or --sets")
        if "retrieval" in self.protocol and not self.captioned:
            raise ConfigError("no pictures with captions for retrieval; name some with --captioned")
        unused = "--captioned" if self.captioned and "retrieval" not in self.protocol else ""
        unused = unused or ("--suite or --sets" if not classifying and (self.suite or self.sets) else "")
        if unused:
            raise ConfigError(f"{unused} is of no use to --protocol {' '.join(self.protocol)}; leave it out")
        for option, names in (
            ("protocol", self.protocol),
            ("suite", self.suite),
            ("sets", self.sets),
            ("captioned", self.captioned),
        ):
            if len(set(names)) < len(names):
                raise ConfigError(f"--{option} names something twice: {' '.join(names)}")
        if self.json is not None and not self.json.endswith(".json"):
            raise ConfigError(f"--json is {self.json}; it must end in .json, as the page lies beside it")
        self.reading()

    def reading(self) -> Reading:
        """How pictures pass the network, for the protocols that train nothing."""
        return Reading(batch=self.batch, workers=self.workers)


def parse(argv: Sequence[str]) -> EvaluateConfig:
    """Settings from a command line."""
    return tyro.cli(
        EvaluateConfig,
        args=list(argv),
        prog="slip evaluate",
        description=(
            "Evaluate a trained model on labelled sets: a table on standard output, exact counts in a JSON file, and "
            "a page with classes and confusions. Results are kept after every set, and the same command again goes on "
            "from there. The exit status is 1 when a set could not be read; the others are evaluated all the same. "
            "Runs on several GPUs under torchrun or srun (slurm/evaluate.sh)."
        ),
    )


def _evaluate(argv: Sequence[str]) -> int:
    config = parse(argv)
    from slip.evaluate.evaluation import evaluate

    return evaluate(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; 0 done, 1 error or a set that could not be read, 2 usage, 130 interrupted."""
    # As in training: decoding threads share the cores with torch's, which would spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    return run_verb(lambda: _evaluate(sys.argv[1:] if argv is None else argv), rank=rank)


if __name__ == "__main__":
    sys.exit(main())
