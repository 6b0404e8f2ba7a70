"""What ranks that evaluate do together: meet each other's errors, and bring rows that are not equally many.

A rank that cannot read its share would leave the others waiting in their next collective. So every piece of work that
reads is done inside `together`: what one rank meets, all raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import YfccError
from slip.distributed import communicating, world_size

_Result = TypeVar("_Result")
_CHUNK_BYTES = 1 << 28


def of_all(value: Any) -> list[Any]:
    """What every rank brings, in rank order."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    with communicating():
        dist.all_gather_object(found, value)
    return found


def together(work: Callable[[], _Result]) -> _Result:
    """This rank's result of `work`; where it raised a YfccError on some ranks, all ranks raise the first one's.

    Every rank must call it. `work` itself may wait for other ranks only where all of them come there.
    """
    error: YfccError | None = None
    try:
        result = work()
    except YfccError as raised:
        error = raised
    # As text: a class's __init__ may want other arguments than pickle gives it back.
    reasons = of_all(None if error is None else (type(error), str(error)))
    if error is not None and all(reason is None for reason in reasons[: dist.get_rank() if len(reasons) > 1 else 0]):
        raise error
    for reason in reasons:
        if reason is not None:
            kind, text = reason
            raise kind(text) from error
    return result


def gather_uneven(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, on every rank, on the CPU; ranks may bring different numbers of them.

    A bounded part at a time goes through the device that ranks speak by.
    """
    rows = rows.cpu()
    counts = [int(count) for count in of_all(len(rows))]
    if len(counts) == 1:
        return rows
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    row_bytes = max(rows[:1].numel() * rows.element_size(), rows.shape[1:].numel() * rows.element_size(), 1)
    step = max(_CHUNK_BYTES // (row_bytes * len(counts)), 1)
    parts: list[list[Tensor]] = [[] for _ in counts]
    for first in range(0, max(counts), step):
        padded = rows.new_zeros((min(step, max(counts) - first), *rows.shape[1:]))
        own = rows[first : first + step]
        padded[: len(own)] = own
        found = [torch.empty_like(padded, device=device) for _ in counts]
        with communicating():
            dist.all_gather(found, padded.to(device))
        for part, piece, count in zip(parts, found, counts, strict=True):
            part.append(piece[: max(count - first, 0)].cpu())
    return torch.cat([piece for part in parts for piece in part]) if max(counts) else rows
