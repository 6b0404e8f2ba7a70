"""What a lookout needs to know: where the store is, and what this rank waits for. Alone there is none."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from slip import distributed
from slip.lookout import Lookout
from slip.world import World, init_world

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*TORCHRUN, *SRUN, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("env", "address"),
    [
        (TORCHRUN | {"MASTER_ADDR": "n0", "MASTER_PORT": "29500"}, ("n0", 29500)),
        (SRUN | {"MASTER_ADDR": "head", "MASTER_PORT": "1234"}, ("head", 1234)),
        (SRUN | {"MASTER_ADDR": "fd00::1"}, ("fd00::1", 14242)),
        ({}, None),
    ],
)
def test_the_store_is_where_the_ranks_meet(
    bare: pytest.MonkeyPatch, env: dict[str, str], address: tuple[str, int] | None
) -> None:
    def joined(*_: Any, **__: Any) -> None:
        pass

    bare.setattr(dist, "init_process_group", joined)
    for name, value in env.items():
        bare.setenv(name, value)
    assert init_world("cpu").store_address == address


def test_alone_nothing_runs() -> None:
    threads = threading.active_count()
    with Lookout(World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))) as lookout:
        lookout.at(3)
        assert lookout.gone() is None
        assert threading.active_count() == threads


def test_a_rank_knows_how_long_it_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def fails() -> None:
        with distributed.communicating():
            now[0] = 62.0
            assert distributed.waits_s() == 12.0
            raise RuntimeError("closed by peer")

    assert distributed.waits_s() is None
    with pytest.raises(RuntimeError, match="closed by peer"):
        fails()
    assert distributed.waits_s() is None
