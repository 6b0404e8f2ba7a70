"""Ranks in the background on this machine: two of them, and neither torch nor training."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from slip.launch import local_jobs
from slip.launch.batch import Place
from slip.launch.settings import LaunchConfig
from slip.launch.site_file import Site
from slip.launch.task import TrainTask

CHECKOUT = Path(__file__).resolve().parents[4]
# Stands in for slip.train in the frozen code: notes what a rank sees, and goes on until it is told to stop.
TRAIN = """
import json, os, signal, sys, time

def main(words):
    seen = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES")}
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    with open(f"rank-{seen['RANK']}.part", "w") as file:
        json.dump(seen | {"words": words, "torch": "torch" in sys.modules, "pipe": os.isatty(1)}, file)
    os.rename(f"rank-{seen['RANK']}.part", f"rank-{seen['RANK']}.json")
    while not told:
        time.sleep(0.05)
    print("stopped", flush=True)
    return 75
"""


def wait_for(condition: object, what: str) -> None:
    """Until it is true; fails after a time that no machine needs."""
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_ranks_run_in_the_background_until_they_are_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(folder=here / "launches/x", working_folder=here)
    package = place.code / "slip"
    (package / "launch").mkdir(parents=True)
    for name in ("__init__.py", "job_port.py", "launch/__init__.py", "launch/task.py"):
        (package / name).write_text((CHECKOUT / "slip" / name).read_text())
    (package / "train.py").write_text(TRAIN)
    # Of a job this process might run in.
    monkeypatch.setenv("RANK", "5")
    config = LaunchConfig(executor="local", gpus_per_node=0, tasks_per_node=2)
    (process,) = local_jobs.submit(config, Site(), place, [TrainTask(("demo", "--seed", "3"), str(here))])
    try:
        files = [here / f"rank-{rank}.json" for rank in (0, 1)]
        wait_for(lambda: all(file.exists() for file in files), "the ranks did not start")
        for rank, file in enumerate(files):
            seen = json.loads(file.read_text())
            assert (seen["RANK"], seen["WORLD_SIZE"], seen["MASTER_ADDR"]) == (str(rank), "2", "127.0.0.1")
            assert (seen["CUDA_VISIBLE_DEVICES"], seen["words"]) == ("", ["demo", "--seed", "3"])
            assert not seen["torch"]
        assert local_jobs.is_running(process, place.logs)
        assert not local_jobs.is_running(process, here)
        assert not local_jobs.is_running(str(os.getpid()), place.logs)
    finally:
        local_jobs.cancel(process)
    wait_for(lambda: not local_jobs.is_running(process, place.logs), "the ranks did not stop")
    for rank in (0, 1):
        assert "stopped" in (place.logs / f"{process}_{rank}_log.out").read_text()
        # Stopped is not done.
        assert not (place.logs / f"{process}_{rank}_result.pkl").exists()
