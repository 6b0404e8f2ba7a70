from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from pipeline.errors import ConfigError
from slip import world
from slip.distributed import all_ranks, all_reduce_sum, any_rank, barrier, gather_rows, mean_over_ranks
from slip.world import first_host, init_world, read_launch, shutdown

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "localhost,gpu[07-08]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9",
}


def without(env: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in names}


def test_torchrun_comes_first() -> None:
    launch = read_launch({**TORCHRUN, **without(SRUN, "SLURM_STEP_NUM_TASKS"), "SLURM_NTASKS": "2"})
    assert (launch.rank, launch.world_size, launch.local_rank, launch.rendezvous) == (3, 8, 1, "env://")


def test_srun_step() -> None:
    launch = read_launch(SRUN)
    assert (launch.rank, launch.world_size, launch.local_rank) == (5, 8, 1)
    assert launch.rendezvous == "tcp://localhost:14242"


def test_every_rank_of_a_step_derives_the_same_meeting_point() -> None:
    meetings = {read_launch({**SRUN, "SLURM_PROCID": str(rank)}).rendezvous for rank in range(8)}
    assert len(meetings) == 1
    other = {
        read_launch({**SRUN, "SLURM_JOB_ID": "4243"}).rendezvous,
        read_launch({**SRUN, "SLURM_STEP_ID": "1"}).rendezvous,
    }
    assert len(meetings | other) == 3


@pytest.mark.parametrize(
    ("changes", "rendezvous"),
    [
        ({"MASTER_ADDR": "head", "MASTER_PORT": "1234"}, "tcp://head:1234"),
        ({"SLURM_STEP_NUM_NODES": "1"}, "tcp://127.0.0.1:14242"),
        ({"SLURM_STEP_NODELIST": "no-such-host.invalid"}, "tcp://10.0.0.9:14242"),
        ({"MASTER_ADDR": "fd00::1"}, "tcp://[fd00::1]:14242"),
    ],
)
def test_where_srun_ranks_meet(changes: dict[str, str], rendezvous: str) -> None:
    assert read_launch({**SRUN, **changes}).rendezvous == rendezvous


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"MASTER_ADDR": "n0", "MASTER_PORT": "1"},
        {**SRUN, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        # A batch script that does not call srun, and a shell opened by salloc.
        without({**SRUN, "SLURM_PROCID": "0"}, "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"),
        {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"},
    ],
)
def test_alone(env: dict[str, str]) -> None:
    launch = read_launch(env)
    assert (launch.rank, launch.world_size, launch.local_rank, launch.rendezvous) == (0, 1, 0, None)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (without(TORCHRUN, "LOCAL_RANK", "MASTER_PORT"), "LOCAL_RANK, MASTER_PORT not"),
        (without(TORCHRUN, "RANK"), "but RANK not"),
        ({**TORCHRUN, "RANK": "8"}, "rank 8 .* not below the world size 8"),
        ({**TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        # Left over from the shell in which sbatch was called.
        ({**TORCHRUN, **SRUN}, "contradict srun's task 5 of 8"),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0", **SRUN}, "contradict srun's task 5 of 8"),
        ({**SRUN, "WORLD_SIZE": "4"}, "WORLD_SIZE is 4, but srun started 8"),
        (without(SRUN, "SLURM_LOCALID"), "SLURM_LOCALID is not set"),
        ({**SRUN, "SLURM_PROCID": "8"}, "rank 8"),
        ({**SRUN, "MASTER_PORT": "auto"}, "MASTER_PORT is 'auto'"),
        (
            {**without(SRUN, "SLURM_LAUNCH_NODE_IPADDR"), "SLURM_STEP_NODELIST": "no-such-host.invalid"},
            "no address for rank 0",
        ),
    ],
)
def test_contradictions_are_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_launch(env)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu7", "gpu7"),
        ("gpu[03-05,9],login", "gpu03"),
        ("a,b", "a"),
        ("rack[1-2]-node[3-4]", "rack1-node3"),
        ("ip-10-0-0-[17,20]", "ip-10-0-0-17"),
    ],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_there_is_no_process_group(bare: pytest.MonkeyPatch) -> None:
    world = init_world("cpu")
    assert (world.rank, world.world_size, world.main_rank, world.device) == (0, 1, True, torch.device("cpu"))
    assert not dist.is_initialized()
    x = torch.randn(3, 2)
    rows, first = gather_rows(x)
    assert torch.equal(rows, x)
    assert first == 0
    assert torch.equal(all_reduce_sum(x), x)
    assert (any_rank(True), any_rank(False), all_ranks(True), all_ranks(torch.tensor(False))) == (
        True,
        False,
        True,
        False,
    )
    assert mean_over_ranks({"a": 1.5, "b": torch.tensor(2.0)}) == {"a": 1.5, "b": 2.0}
    assert mean_over_ranks({}) == {}
    barrier()
    shutdown()


def test_slurm_ranks_join_with_the_derived_address(bare: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(backend: str, **settings: Any) -> None:
        seen.update(settings, backend=backend)

    bare.setattr(dist, "init_process_group", fake)
    for name, value in SRUN.items():
        bare.setenv(name, value)
    world = init_world("cpu", timeout_s=5)
    assert (world.rank, world.world_size, world.local_rank, world.main_rank) == (5, 8, 1, False)
    assert (seen["backend"], seen["init_method"], seen["rank"], seen["world_size"]) == (
        "gloo",
        "tcp://localhost:14242",
        5,
        8,
    )
    assert seen["timeout"].total_seconds() == 5


def test_ranks_that_do_not_meet_are_reported(bare: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        bare.setenv(name, value)
    with pytest.raises(ConfigError, match=r"rank 3 of 8: the ranks did not meet within 1 s"):
        init_world("cpu", timeout_s=1)


def test_a_gpu_that_is_not_there_is_named(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="torch sees none"):
        init_world("cuda")


def test_one_gpu_per_process(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(torch.cuda, "device_count", lambda: 4)
    assert world._pick_device("cuda", 3) == torch.device("cuda", 3)
    with pytest.raises(ConfigError, match="local rank 4 has no GPU: this node shows 4"):
        world._pick_device("cuda", 4)
    bare.setattr(torch.cuda, "device_count", lambda: 1)
    assert world._pick_device("cuda", 3) == torch.device("cuda", 0)
