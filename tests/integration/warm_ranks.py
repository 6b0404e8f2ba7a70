"""Ranks of a training run that are at work at once: forked from a process that has imported all they need.

For runs that are killed and started over and over. A rank is a process of its own as any other, with the arguments, the
environment and the log that a launcher would give it; only the imports, nearly five CPU-seconds in each, are done once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from slip import train
from slip.torchvision_compat import import_timm

import_timm()
for _name in ("timm.models.vision_transformer", "torch.utils.tensorboard", "slip.loop"):
    importlib.import_module(_name)


def _rank(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(train.main(arguments))


def start_warm(arguments: Sequence[str], envs: Sequence[Mapping[str, str]], log: Path) -> list[BaseProcess]:
    """One process for each environment, running `python -m slip.train ARGUMENTS`, its stderr at the end of the log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # Daemons: who goes without them does not wait for them.
    ranks: list[BaseProcess] = [
        context.Process(target=_rank, args=(arguments, dict(env), log), daemon=True) for env in envs
    ]
    for rank in ranks:
        rank.start()
    return ranks
