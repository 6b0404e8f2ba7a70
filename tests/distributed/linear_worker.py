"""Ranks that train on labels: `python tests/distributed/linear_worker.py FOLDER`.

1, 2 and 4 of them, forked from this process, which has imported what they need. FOLDER/WORLD_SIZE-RANK.json is what a
rank found.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import InputError
from slip.evaluate import finetune, linear
from slip.evaluate.encode import Encoded
from slip.evaluate.finetune import Finetuning
from slip.evaluate.finetune_config import FinetuneConfig
from slip.evaluate.finetune_feed import Feed
from slip.evaluate.labelled import LabelledPicture, LabelledSet
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.linear_fast import fit
from slip.evaluate.linear_sgd import train_head
from slip.evaluate.trained import Trained
from slip.world import World, init_world, shutdown
from tests.coloured_pictures import Listed, coloured_set, untrained
from tests.ports import free_port

WORLDS = (1, 2, 4)
# Batches of 10 and a last one of 6, which no 4 ranks share equally.
LINEAR = LinearConfig(epochs=2, batch=10, lr=0.3, forward_batch=3, l2_decades=(0, 2), l2_halvings=0, workers=1)
FINETUNE = FinetuneConfig(
    epochs=1,
    warmup_epochs=0.5,
    batch=8,
    mix_batch=6,
    forward_batch=2,
    lr=1e-3,
    drop_path=0.3,
    head_scale=1.0,
    workers=0,
)


def losses(trained: Trained, labelled: LabelledSet, world: World) -> list[float]:
    """Of the first steps of fine-tuning, with everything that is random in them."""
    training = Finetuning(trained, 4, FINETUNE, world=world, steps_per_epoch=3)
    training.network.train()
    with Feed(labelled.splits["train"], 4, FINETUNE, size=16, places=training.places, workers=0) as feed:
        return [training.step(part, 0, step) for step, part in enumerate(feed.parts(0))]


def refused(trained: Trained, labelled: LabelledSet, world: World) -> list[str]:
    """What each way of training says of a damaged picture, which one rank alone meets."""
    pictures = [labelled.splits["train"][number] for number in range(len(labelled.splits["train"]))]
    pictures[9] = LabelledPicture(name="train/9", image=b"<html>", label=1)
    broken = dataclasses.replace(labelled, splits={**labelled.splits, "train": Listed(pictures)})
    ways: tuple[Callable[[], object], ...] = (
        lambda: linear.run(trained, broken, dataclasses.replace(LINEAR, fast=False), world=world),
        lambda: linear.run(trained, broken, dataclasses.replace(LINEAR, published=False), world=world),
        lambda: finetune.run(trained, broken, FINETUNE, world=world),
    )
    said = []
    for way in ways:
        try:
            way()
        except InputError as error:
            said.append(str(error))
    return said


def found(world: World) -> dict[str, Any]:
    """All that one rank finds."""
    # Wrong labels: not every picture is classified right. Three test pictures: one of four ranks has none.
    labelled, few, trained = coloured_set(26, 33, wrong_every=3), coloured_set(26, 3), untrained()
    scores = linear.run(trained, labelled, LINEAR, world=world)
    scores += finetune.run(trained, labelled, FINETUNE, world=world)
    scores += linear.run(trained, few, dataclasses.replace(LINEAR, epochs=1, l2_decades=(0, 0)), world=world)
    head = train_head(trained, labelled, LINEAR, world=world, workers=1)
    # Features of very different size; of four ranks one has none.
    draw = torch.Generator().manual_seed(5)
    rows = Encoded(
        values_NW=torch.randn(60, 8, generator=draw) * torch.logspace(-3, 2, 8),
        labels_N=torch.randint(0, 3, (60,), generator=draw),
        numbers_N=torch.arange(60),
    )
    share = rows.only(torch.arange(world.rank, 60, min(world.world_size, 3)) if world.rank < 3 else torch.arange(0))
    return {
        "fast": fit(share, 3, 0.01, world=world).weight_CW.flatten().tolist(),
        "scores": [dataclasses.asdict(score) for score in scores],
        "head": head.weight.flatten().tolist(),
        "losses": losses(trained, labelled, world),
        "refused": refused(trained, labelled, world),
    }


def one_rank(rank: int, world_size: int, port: int, folder: Path) -> None:
    """One rank, as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    content = found(init_world("cpu", timeout_s=60))
    (folder / f"{world_size}-{rank}.json").write_text(json.dumps(content))
    shutdown()


def main(folder: Path) -> None:
    """Start the ranks of each world and wait."""
    fork = multiprocessing.get_context("fork")
    for world_size in WORLDS:
        port = free_port()
        ranks = [
            fork.Process(target=one_rank, args=(rank, world_size, port, folder), daemon=True)
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(120)
        codes = [rank.exitcode for rank in ranks]
        if any(codes):
            sys.exit(f"exit codes by rank: {codes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
