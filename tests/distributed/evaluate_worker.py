"""Four ranks evaluate, then two: `python tests/distributed/evaluate_worker.py FOLDER ARGUMENTS...`.

Forked from this process, which has imported what they need. FOLDER/N/RANK.out and RANK.err are what a rank of N wrote,
FOLDER/N/codes.json the exit codes, FOLDER/N/results.json the results.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch

from slip.evaluate.command import main as evaluate
from slip.torchvision_compat import import_torchvision
from tests.ports import free_port


def one_rank(rank: int, ranks: int, port: int, folder: Path, arguments: list[str]) -> None:
    """One rank, as torchrun would start it."""
    for stream in ("out", "err"):
        file = os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, getattr(sys, f"std{stream}").fileno())
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.exit(evaluate([*arguments, "--json", str(folder / "results.json")]))


def start(ranks: int, folder: Path, arguments: list[str]) -> None:
    """Start so many and wait."""
    folder.mkdir()
    port = free_port()
    fork = multiprocessing.get_context("fork")
    started = [
        fork.Process(target=one_rank, args=(rank, ranks, port, folder, arguments), daemon=True) for rank in range(ranks)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    (folder / "codes.json").write_text(json.dumps([process.exitcode for process in started]))


def main(folder: Path, arguments: list[str]) -> None:
    """Both."""
    import_torchvision()
    for name in ("evaluation", "zeroshot", "knn", "retrieval"):
        importlib.import_module(f"slip.evaluate.{name}")
    for ranks in (4, 2):
        start(ranks, folder / str(ranks), arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
