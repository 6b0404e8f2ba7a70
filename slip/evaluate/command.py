"""The verb `slip evaluate`: how good a trained model is, by a protocol, on labelled sets.

In: a checkpoint or a run, and labelled sets. Out: one table on standard output and a JSON file with exact counts. Runs
on one process or on many (torchrun, srun), with the same counts. Which checkpoint is meant, and its network, is
`slip.evaluate.trained`'s part, the protocol `slip.evaluate.zeroshot`'s, table and JSON `slip.evaluate.report`'s.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from pipeline import store
from pipeline.errors import ConfigError, RankLostError, YfccError
from slip.command import run_verb
from slip.evaluate.report import SetScore, Subject, Unread, data, table

if TYPE_CHECKING:
    from slip.evaluate.trained import Found, Trained
    from slip.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a trained model."""

    checkpoint: tyro.conf.Positional[str]
    """File or URL of a checkpoint, or folder or URL of a run: its best checkpoint, else its newest."""
    protocol: Literal["zeroshot"] = "zeroshot"
    """zeroshot = which class's prompts does a picture's embedding lie closest to?"""
    sets: tuple[str, ...] = ()
    """Folders or URLs of labelled sets in CLIP_benchmark's WebDataset layout (classnames.txt,
    zeroshot_classification_templates.txt, test/nshards.txt, test/0.tar ...)."""
    weights: Literal["model", "average"] | None = None
    """The weights, or their average along training. Default: the average where the run kept one (--ema-decay), as
    training's own evaluation takes it."""
    json: str | None = None
    """File or URL for the results. Default: evaluation/step-00001200-zeroshot.json in the run's folder; none for a
    checkpoint that lies elsewhere."""
    batch: int = 256
    """Pictures (and prompts) per forward pass and process."""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ConfigError("no labelled set to evaluate on; name at least one with --sets")
        if len(set(self.sets)) < len(self.sets):
            raise ConfigError(f"--sets names a set twice: {' '.join(self.sets)}")
        if self.batch < 1:
            raise ConfigError(f"--batch is {self.batch}; it must be at least 1")


def parse(argv: Sequence[str]) -> EvaluateConfig:
    """Settings from a command line."""
    return tyro.cli(
        EvaluateConfig,
        args=list(argv),
        prog="slip evaluate",
        description=(
            "Evaluate a trained model on labelled sets: a table on standard output, exact counts in a JSON file. The "
            "exit status is 1 when a set could not be read; the others are evaluated all the same. Runs on several "
            "GPUs under torchrun or srun (slurm/evaluate.sh)."
        ),
    )


def _of_all(value: Any) -> list[Any]:
    """What every rank brings, in rank order."""
    import torch.distributed as dist

    from slip.distributed import communicating, world_size

    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    with communicating():
        dist.all_gather_object(found, value)
    return found


def _first_reason(reason: str | None) -> str | None:
    """Why the first of the ranks that failed did, the same on all; None when none did."""
    return next((found for found in _of_all(reason) if found is not None), None)


def _zeroshot(trained: Trained, url: str, config: EvaluateConfig, world: World) -> SetScore | Unread:
    """One labelled set; every rank gets the same answer, even where only one of them cannot read it."""
    import torch

    from slip.data.worker_count import cores_of_this_rank
    from slip.distributed import all_reduce_sum, take_waited_s
    from slip.evaluate.datasets import open_labelled_set
    from slip.evaluate.zeroshot import evaluate_zeroshot

    reason = None
    try:
        labelled = open_labelled_set(url)
    except YfccError as error:
        reason = str(error)
    reason = _first_reason(reason)
    if reason is not None:
        return Unread(url=url, error=reason)
    take_waited_s()
    try:
        found = evaluate_zeroshot(
            trained.model, labelled, trained.config, world=world, batch=config.batch, workers=cores_of_this_rank()
        )
    except YfccError as error:
        reason = str(error)
        if take_waited_s() == 0:
            # It failed while it read its share. The others wait for it in the sum of the three counts.
            all_reduce_sum(torch.zeros(3, dtype=torch.float64, device=world.device))
    reason = _first_reason(reason)
    if reason is not None:
        return Unread(url=url, error=reason)
    return SetScore(
        url=url, classes=found.num_classes, pictures=found.num_pictures, top1=found.num_top1, top5=found.num_top5
    )


def _in_bf16(trained: Trained, world: World) -> bool:
    """Whether the towers compute in bf16, as they did in training."""
    return trained.precision == "bf16" or (trained.precision == "auto" and world.device.type == "cuda")


def _json_url(config: EvaluateConfig, found: Found, trained: Trained) -> str | None:
    """Where the results go."""
    if config.json is not None or found.output is None:
        return config.json
    # The average has the plain name: it is what is evaluated where nothing is said.
    weights = "-model" if trained.weights == "model" and trained.has_average else ""
    name = f"step-{trained.step:08d}-{config.protocol}{weights}.json"
    return store.join(found.output, "evaluation", name)


def _load(config: EvaluateConfig) -> tuple[Found, Trained]:
    """The network all ranks evaluate, and which checkpoint it is of."""
    from slip.evaluate.trained import find, load

    # A run that goes on may have a newer one when another rank looks: all take what rank 0 found.
    found: Found = _of_all(find(config.checkpoint))[0]
    logger.info("checkpoint %s (%s)", found.url, found.why)
    trained = load(found.url, config.weights)
    if not trained.model.has_text:
        raise ConfigError(
            f"--protocol zeroshot: {found.url} was trained with objective {trained.objective.name}, which has no text "
            "tower; give a checkpoint of clip, siglip or slip"
        )
    return found, trained


def evaluate(config: EvaluateConfig) -> int:
    """Do all of it; 0, or on rank 0 1 when a set could not be read. Every rank calls it with the same settings."""
    import torch

    from slip.checkpoint import versions
    from slip.lookout import Lookout
    from slip.world import init_world, shutdown

    world = init_world()
    with Lookout(world) as lookout:
        try:
            found, trained = _load(config)
            trained.model.to(world.device)
            bf16 = _in_bf16(trained, world)
            with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=bf16):
                results = [_zeroshot(trained, url, config, world) for url in config.sets]
        except RuntimeError as error:
            # What a collective says names an address at best.
            lost = lookout.gone()
            if lost is None:
                raise
            raise RankLostError(f"rank {world.rank} cannot go on: {lost}; run the same command again") from error
    shutdown()
    if not world.main_rank:
        # Where one rank ends with an error srun ends the others, and rank 0 is not done.
        return 0
    subject = Subject(
        protocol=config.protocol,
        checkpoint=found.url,
        step=trained.step,
        weights=trained.weights,
        objective=trained.objective.name,
        tower=trained.config.tower,
        image_size=trained.config.image_size,
        precision="bf16" if bf16 else "fp32",
        versions=versions(),
        trained_with=trained.versions,
    )
    sys.stdout.write(table(subject, results))
    sys.stdout.flush()
    url = _json_url(config, found, trained)
    if url is not None:
        store.write_bytes(url, (json.dumps(data(subject, results), indent=1) + "\n").encode())
        logger.info("results are in %s", url)
    return int(any(isinstance(result, Unread) for result in results))


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; 0 done, 1 error or a set that could not be read, 2 usage, 130 interrupted."""
    # As in training: decoding threads share the cores with torch's, which would spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    return run_verb(lambda: evaluate(parse(sys.argv[1:] if argv is None else argv)), rank=rank)


if __name__ == "__main__":
    sys.exit(main())
