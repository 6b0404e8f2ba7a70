"""Gradients averaged over ranks while the backward pass goes on, for towers and heads that are called by parts.

Gradients live in a few flat buffers, in about the reverse order of the parameters, which is the order in which a
backward pass makes them. When all of a buffer is there it is summed over ranks beside the computation; `finish` waits
for the rest. DistributedDataParallel does the same for a module that is called once a step. A step here may call the
towers many times and the heads once (`slip.exact_batch`), with the sum wanted after the last of them only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from slip.distributed import communicating, world_size

BUCKET_BYTES = 25 * 10**6
"""As in DistributedDataParallel: large enough for the network's full speed, small enough to begin early."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Bucket:
    parameters: list[nn.Parameter]
    flat: Tensor
    missing: int = 0
    """Parameters whose gradient of this step is not final yet."""
    work: dist.Work | None = field(default=None)


def _split(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Runs of parameters of one dtype and device, about BUCKET_BYTES each, last parameter first."""
    runs: list[list[nn.Parameter]] = []
    num_bytes = 0
    for parameter in reversed(list(parameters)):
        size = parameter.numel() * parameter.element_size()
        alike = runs and (runs[-1][0].dtype, runs[-1][0].device) == (parameter.dtype, parameter.device)
        if not alike or num_bytes + size > BUCKET_BYTES:
            runs.append([])
            num_bytes = 0
        runs[-1].append(parameter)
        num_bytes += size
    return runs


class GradientAverager:
    """Averages the gradients of a model's parameters over ranks.

    A step is: `begin`; any number of backward passes, of which for each parameter the one that makes its gradient
    final runs within `final`; `finish`. Alone it does nothing but set gradients to zero. Parameters sharded by FSDP2
    are averaged by FSDP2.
    """

    def __init__(self, model: nn.Module) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._plain = [parameter for parameter in trained if not isinstance(parameter, DTensor)]
        self._sharded = [parameter for parameter in trained if isinstance(parameter, DTensor)]
        self._buckets: list[_Bucket] = []
        self._next = 0
        self._armed = False
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        if world_size() == 1:
            return
        for run in _split(self._plain):
            bucket = _Bucket(parameters=run, flat=torch.zeros_like(torch.cat([p.detach().reshape(-1) for p in run])))
            self._buckets.append(bucket)
            for parameter in run:
                self._bucket_of[parameter] = bucket
                parameter.register_post_accumulate_grad_hook(self._made)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Set all gradients to zero."""
        for parameter in self._sharded if self._buckets else [*self._plain, *self._sharded]:
            parameter.grad = None
        for bucket in self._buckets:
            bucket.flat.zero_()
            bucket.work, bucket.missing, first = None, len(bucket.parameters), 0
            for parameter in bucket.parameters:
                # A view of the flat buffer: the backward pass adds to it in place.
                parameter.grad = bucket.flat[first : first + parameter.numel()].view_as(parameter)
                first += parameter.numel()
        self._next = 0

    @contextmanager
    def final(self) -> Iterator[None]:
        """The gradients that the backward pass in here makes are final: they may be summed at once."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def finish(self) -> None:
        """Wait until all gradients are averaged."""
        # Buckets in which a parameter got no gradient are not complete.
        self._send(everything=True)
        for bucket in self._buckets:
            assert bucket.work is not None
            with communicating():
                bucket.work.wait()
            bucket.flat /= world_size()

    def _made(self, parameter: Tensor) -> None:
        if not self._armed:
            return
        assert isinstance(parameter, nn.Parameter)
        self._bucket_of[parameter].missing -= 1
        self._send(everything=False)

    def _send(self, *, everything: bool) -> None:
        """Start the sums of complete buckets; in the same order on every rank, as collectives must be."""
        while self._next < len(self._buckets) and (everything or self._buckets[self._next].missing <= 0):
            bucket = self._buckets[self._next]
            bucket.work = dist.all_reduce(bucket.flat, async_op=True)
            self._next += 1


def gradient_norm(model: nn.Module) -> Tensor:
    """Euclidean norm of all gradients together; every rank must call it, and all get the same."""
    plain: list[Tensor] = []
    sharded: list[Tensor] = []
    for parameter in model.parameters():
        if isinstance(parameter.grad, DTensor):
            sharded.append(parameter.grad.to_local())
        elif parameter.grad is not None:
            plain.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(plain)
    if not sharded:
        return norm
    squares = torch.nn.utils.get_total_norm(sharded).square()
    dist.all_reduce(squares)
    return (norm.square() + squares).sqrt()
