"""What ranks tell each other: the collectives of a run.

Every collective here also works alone, where no process group exists, so callers never ask. `gather_rows` and
`all_reduce_sum` pass gradients exactly: if every rank backpropagates its own loss, the gradient a rank gets is that of
the *sum* of all ranks' losses, which DistributedDataParallel's averaging turns into the gradient of their mean.

Shape letters: B rows on this rank, G rows on all ranks, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Renamed in torch 2.13, where the old names warn at every call; 2.11 has only those.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def barrier() -> None:
    """Wait until every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def world_size() -> int:
    """Number of ranks that take part in collectives."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among the ranks that take part in collectives."""
    return dist.get_rank() if dist.is_initialized() else 0


def _collective_device() -> torch.device:
    """Device on which the process group can reduce."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


_waited_s = 0.0
_waiting_since: float | None = None


@contextmanager
def communicating() -> Iterator[None]:
    """Time in the block counts as waiting for other ranks; see `take_waited_s` and `waits_s`."""
    global _waited_s, _waiting_since
    began = _waiting_since = time.perf_counter()
    try:
        yield
    finally:
        _waiting_since = None
        _waited_s += time.perf_counter() - began


def waits_s() -> float | None:
    """Seconds in the collective that this process waits in, None while it does something else; from any thread."""
    since = _waiting_since
    return None if since is None else time.perf_counter() - since


def take_waited_s() -> float:
    """Seconds this process has waited in collectives since the last call.

    With gloo that is all of it. nccl's collectives run beside the process, which only waits where it reads a result.
    """
    global _waited_s
    waited_s, _waited_s = _waited_s, 0.0
    return waited_s


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        rows_GD = rows_BD.new_empty((world_size() * rows_BD.shape[0], *rows_BD.shape[1:]))
        with communicating():
            _all_gather(rows_GD, rows_BD.contiguous())
        ctx.num_rows = rows_BD.shape[0]
        return rows_GD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad_GD,) = grads
        grad_BD = grad_GD.new_empty((ctx.num_rows, *grad_GD.shape[1:]))
        with communicating():
            _reduce_scatter(grad_BD, grad_GD.contiguous())
        return grad_BD


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        with communicating():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        with communicating():
            dist.all_reduce(total)
        return total


def _exchange(x: Tensor, *, to: int, source: int) -> Tensor:
    """Send x to one rank and receive the like from another."""
    received, x = torch.empty_like(x), x.contiguous()
    with communicating():
        pair = [dist.P2POp(dist.isend, x, to), dist.P2POp(dist.irecv, received, source)]
        for work in dist.batch_isend_irecv(pair):
            work.wait()
    return received


class _ShiftRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        return _exchange(rows_BD, to=(rank() + 1) % world_size(), source=(rank() - 1) % world_size())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _exchange(grads[0], to=(rank() - 1) % world_size(), source=(rank() + 1) % world_size())


def shift_rows(rows_BD: Tensor) -> Tensor:
    """The rows of the rank before this one (of the last one on rank 0); the gradient goes back to where they are
    from."""
    if world_size() == 1:  # gloo cannot send to itself
        return rows_BD
    shift: Callable[[Tensor], Tensor] = _ShiftRows.apply
    return shift(rows_BD)


def gather_rows(rows_BD: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks in rank order, and the index of this rank's first row; the gradient is exact.

    Every rank must bring the same number of rows (checked: with nccl unequal ones would hang or mix up rows).
    """
    if not dist.is_initialized():
        return rows_BD, 0
    num_rows = torch.tensor([rows_BD.shape[0]], device=rows_BD.device)
    num_rows_all = num_rows.new_empty(world_size())
    with communicating():
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
    with communicating():
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
        with communicating():
            dist.all_reduce(total)
    means = (total / world_size()).tolist()
    return {name: float(mean) for name, mean in zip(names, means, strict=True)}
