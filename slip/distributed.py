"""Who this process is among the processes of a run, and the collectives the run needs.

`init_world` reads it from torchrun's or Slurm's environment, or finds that the process is alone. Every collective
here also works alone, where no process group exists, so callers never ask. `gather_rows` and `all_reduce_sum` pass
gradients exactly: if every rank backpropagates its own loss, the gradient a rank gets is that of the *sum* of all
ranks' losses, which DistributedDataParallel's averaging turns into the gradient of their mean.

Shape letters: B rows on this rank, G rows on all ranks, D width.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import ConfigError

# Renamed in torch 2.13, where the old names warn at every call; 2.11 has only those.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

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
        # Below the range that Linux hands out to outgoing connections; different for jobs sharing a node.
        port = 10_000 + (_integer(env, "SLURM_JOB_ID") + 7 * _integer(env, "SLURM_STEP_ID")) % 20_000
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


def barrier() -> None:
    """Wait until every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def world_size() -> int:
    """Number of ranks that take part in collectives."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _collective_device() -> torch.device:
    """Device on which the process group can reduce."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        rows_GD = rows_BD.new_empty((world_size() * rows_BD.shape[0], *rows_BD.shape[1:]))
        _all_gather(rows_GD, rows_BD.contiguous())
        ctx.num_rows = rows_BD.shape[0]
        return rows_GD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad_GD,) = grads
        grad_BD = grad_GD.new_empty((ctx.num_rows, *grad_GD.shape[1:]))
        _reduce_scatter(grad_BD, grad_GD.contiguous())
        return grad_BD


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def gather_rows(rows_BD: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks in rank order, and the index of this rank's first row; the gradient is exact.

    Every rank must bring the same number of rows (checked: with nccl unequal ones would hang or mix up rows).
    """
    if not dist.is_initialized():
        return rows_BD, 0
    num_rows = torch.tensor([rows_BD.shape[0]], device=rows_BD.device)
    num_rows_all = num_rows.new_empty(world_size())
    _all_gather(num_rows_all, num_rows)
    found: list[int] = num_rows_all.tolist()
    if len(set(found)) > 1:
        raise ValueError(f"gather_rows: ranks brought {found} rows (by rank); they must be equally many")
    gather: Callable[[Tensor], Tensor] = _GatherRows.apply
    return gather(rows_BD), dist.get_rank() * rows_BD.shape[0]


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of x over the ranks, with gradient."""
    if not dist.is_initialized():
        return x
    reduce: Callable[[Tensor], Tensor] = _AllReduceSum.apply
    return reduce(x)


def sum_over_ranks(counts: Sequence[int]) -> list[int]:
    """Each count summed over the ranks, the same answer on all of them; every rank must bring equally many."""
    if not dist.is_initialized():
        return list(counts)
    total = torch.tensor(list(counts), dtype=torch.int64, device=_collective_device())
    dist.all_reduce(total)
    found: list[int] = total.tolist()
    return found


def any_rank(flag: bool | Tensor) -> bool:
    """Whether the flag is set on at least one rank; the same answer on all of them."""
    return sum_over_ranks([int(bool(flag))])[0] > 0


def all_ranks(flag: bool | Tensor) -> bool:
    """Whether the flag is set on every rank; the same answer on all of them."""
    return not any_rank(not flag)


def mean_over_ranks(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Mean over ranks of each named number; every rank must bring the same names."""
    if not values:
        return {}
    names = sorted(values)
    device = _collective_device() if dist.is_initialized() else None
    total = torch.stack([torch.as_tensor(values[n], dtype=torch.float64, device=device).detach() for n in names])
    if dist.is_initialized():
        dist.all_reduce(total)
    means = (total / world_size()).tolist()
    return {name: float(mean) for name, mean in zip(names, means, strict=True)}
