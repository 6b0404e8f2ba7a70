"""Ranks of a test as processes of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start_and_wait(command: list[str], num_ranks: int) -> None:
    """Run a command once for each rank, its number the last argument, and fail if one of them fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT, env=env) for rank in range(num_ranks)]
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(codes), f"exit codes by rank: {codes}"
