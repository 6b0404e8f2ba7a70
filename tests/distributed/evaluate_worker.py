"""Two ranks evaluate: `python tests/distributed/evaluate_worker.py FOLDER ARGUMENTS...`.

Forked from this process, which has imported what they need. FOLDER/RANK.out and FOLDER/RANK.err are what a rank wrote,
FOLDER/codes.json the exit codes.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch

from slip.evaluate.command import main as evaluate
from slip.torchvision_compat import import_torchvision

RANKS = 2


def rank_of_two(rank: int, port: int, folder: Path, arguments: list[str]) -> None:
    """One rank, as torchrun would start it."""
    for stream in ("out", "err"):
        file = os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, getattr(sys, f"std{stream}").fileno())
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.exit(evaluate(arguments))


def main(folder: Path, arguments: list[str]) -> None:
    """Start both and wait."""
    import_torchvision()
    importlib.import_module("slip.evaluate.trained")
    importlib.import_module("slip.evaluate.zeroshot")
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=rank_of_two, args=(rank, port, folder, arguments), daemon=True) for rank in range(RANKS)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    (folder / "codes.json").write_text(json.dumps([rank.exitcode for rank in ranks]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
