"""Who this process is among the processes of a run: read from torchrun's or Slurm's environment, or it is alone.

`init_world` finds out and joins the others; `shutdown` leaves them. What ranks tell each other is `slip.distributed`'s
part.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from pipeline.errors import ConfigError
from slip.job_port import job_port

DeviceName = Literal["auto", "cpu", "cuda"]
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# srun numbers the steps it starts from 0; the batch script itself and interactive shells get ids above this one.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process's place among the processes of the run."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    store_address: tuple[str, int] | None = None
    """Host and port of the store at which the ranks met, None when alone."""

    @property
    def main_rank(self) -> bool:
        """Whether this process writes what is written once per run."""
        return self.rank == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the environment says: the ranks, and where rank 0 listens (None when alone)."""

    rank: int
    world_size: int
    local_rank: int
    rendezvous: str | None


def _integer(env: Mapping[str, str], name: str, *, least: int = 0) -> int:
    try:
        value = int(env[name])
    except KeyError:
        raise ConfigError(
            f"{name} is not set, though other variables of a launcher are; use torchrun or srun"
        ) from None
    except ValueError:
        raise ConfigError(f"{name} is {env[name]!r}; it must be a number (use torchrun or srun)") from None
    if value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")
    return value


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list: "gpu[03-05,9],login" -> "gpu03"."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodelist)[0])


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _slurm_rendezvous(env: Mapping[str, str]) -> str:
    """Where rank 0 listens: MASTER_ADDR and MASTER_PORT if set, else the step's first node and a port of the job's."""
    host = env.get("MASTER_ADDR")
    if not host and env.get("SLURM_STEP_NUM_NODES") == "1":
        host = "127.0.0.1"
    if not host:
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or ""
        host = first_host(nodes)
        if not host or not _resolves(host):
            # The node srun was called on: under sbatch the first node, but a login node under salloc.
            host = env.get("SLURM_LAUNCH_NODE_IPADDR")
    if not host:
        raise ConfigError(
            "no address for rank 0: SLURM_STEP_NODELIST names no host that resolves and SLURM_LAUNCH_NODE_IPADDR is "
            "not set; export MASTER_ADDR in the job script"
        )
    if "MASTER_PORT" in env:
        port = _integer(env, "MASTER_PORT", least=1)
    else:
        port = job_port(_integer(env, "SLURM_JOB_ID"), _integer(env, "SLURM_STEP_ID"))
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def read_launch(env: Mapping[str, str]) -> Launch:
    """Find the ranks in an environment: torchrun's variables first, then those of an srun step, else alone."""
    step = env.get("SLURM_STEP_ID", "")
    # Without srun (a batch script, an interactive shell) there is one process, whatever was allocated.
    in_step = step.isdigit() and int(step) < _FIRST_SPECIAL_STEP
    num_tasks = 1
    if in_step:
        num_tasks = _integer(env, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS", least=1)

    if "RANK" in env or (("WORLD_SIZE" in env or "LOCAL_RANK" in env) and not in_step):
        missing = [name for name in _TORCHRUN if not env.get(name)]
        if missing:
            found = [name for name in _TORCHRUN if env.get(name)]
            raise ConfigError(f"{', '.join(found)} set but {', '.join(missing)} not; use torchrun, or unset the former")
        launch = Launch(
            rank=_integer(env, "RANK"),
            world_size=_integer(env, "WORLD_SIZE", least=1),
            local_rank=_integer(env, "LOCAL_RANK"),
            rendezvous="env://",
        )
        # sbatch hands the caller's whole environment on: a forgotten RANK would make every task rank 0.
        if launch.world_size < num_tasks or (
            launch.world_size == num_tasks > 1 and launch.rank != _integer(env, "SLURM_PROCID")
        ):
            raise ConfigError(
                f"RANK={launch.rank} and WORLD_SIZE={launch.world_size} contradict srun's task "
                f"{env.get('SLURM_PROCID')} of {num_tasks}; unset RANK, WORLD_SIZE and LOCAL_RANK in the job script"
            )
    elif num_tasks > 1:
        launch = Launch(
            rank=_integer(env, "SLURM_PROCID"),
            world_size=num_tasks,
            local_rank=_integer(env, "SLURM_LOCALID"),
            rendezvous=_slurm_rendezvous(env),
        )
        if "WORLD_SIZE" in env and _integer(env, "WORLD_SIZE") != num_tasks:
            raise ConfigError(
                f"WORLD_SIZE is {env['WORLD_SIZE']}, but srun started {num_tasks} tasks; unset it in the job script"
            )
    else:
        return Launch(rank=0, world_size=1, local_rank=0, rendezvous=None)
    if launch.rank >= launch.world_size or launch.local_rank >= launch.world_size:
        raise ConfigError(
            f"rank {launch.rank} (local rank {launch.local_rank}) is not below the world size {launch.world_size}"
        )
    return launch


def _store_address(launch: Launch, env: Mapping[str, str]) -> tuple[str, int] | None:
    """Where the store of the rendezvous listens: in rank 0's process, or in torchrun's."""
    if launch.rendezvous is None or launch.world_size == 1:
        return None
    if launch.rendezvous == "env://":
        return env["MASTER_ADDR"], _integer(env, "MASTER_PORT", least=1)
    host, _, port = launch.rendezvous.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def _pick_device(name: DeviceName, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    num_devices = torch.cuda.device_count()
    if num_devices == 0:
        raise ConfigError("a GPU was asked for, but torch sees none; use the CPU, or install torch with CUDA")
    # A launcher that binds one GPU to each task shows each of them only its own, as number 0.
    index = 0 if num_devices == 1 else local_rank
    if index >= num_devices:
        raise ConfigError(f"local rank {local_rank} has no GPU: this node shows {num_devices}; start fewer processes")
    return torch.device("cuda", index)


def init_world(device: DeviceName = "auto", *, timeout_s: float = 600.0) -> World:
    """Find this process's place and join the others; alone, no process group is made.

    Args:
        device: "auto" takes a GPU where there is one; ranks speak nccl on GPUs and gloo on CPUs.
        timeout_s: seconds a collective (or the meeting at the start) waits for missing ranks before it fails.
    """
    launch = read_launch(os.environ)
    world = World(
        rank=launch.rank,
        world_size=launch.world_size,
        local_rank=launch.local_rank,
        device=_pick_device(device, launch.local_rank),
        store_address=_store_address(launch, os.environ),
    )
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.world_size > 1:
        on_gpu = world.device.type == "cuda"
        try:
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                init_method=launch.rendezvous,
                rank=world.rank,
                world_size=world.world_size,
                timeout=timedelta(seconds=timeout_s),
                device_id=world.device if on_gpu else None,
            )
        except dist.DistError as error:
            raise ConfigError(
                f"rank {world.rank} of {world.world_size}: the ranks did not meet within {timeout_s:g} s at "
                f"{launch.rendezvous} (MASTER_ADDR {os.environ.get('MASTER_ADDR', 'not set')}): {error}; "
                "check that every process started and that the port is free and reachable"
            ) from error
    return world


def shutdown() -> None:
    """Leave the process group; harmless where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()
