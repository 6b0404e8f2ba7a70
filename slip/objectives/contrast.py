"""Contrast in blocks: cross-entropy over similarities, its gradient found on the way, never more than a block in
memory.

The similarities of B queries and K keys are a B x K matrix: 4 GB for one process with a batch of 32,768, several times
that with softmax and gradient. The gradient of a cross-entropy is known as soon as a row is, so each block of rows adds
its share to the gradients and is dropped: nothing is computed twice.

Letters: B queries of this rank, K keys, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slip.objectives.needs import BLOCK_ELEMENTS


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Consecutive rows, so many at a time that a block holds at most BLOCK_ELEMENTS (but at least one row)."""
    rows = max(1, BLOCK_ELEMENTS // max(1, num_columns))
    return (slice(first, min(first + rows, num_rows)) for first in range(0, num_rows, rows))


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, key_KD: Tensor, scale: Tensor, own_B: Tensor, without_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        num = len(query_BD)
        loss = query_BD.new_zeros(())
        num_right = torch.zeros((), dtype=torch.int64, device=query_BD.device)
        wanted = any(ctx.needs_input_grad)
        query_grad, key_grad, scale_grad = torch.zeros_like(query_BD), torch.zeros_like(key_KD), torch.zeros_like(scale)
        for rows in row_blocks(num, len(key_KD)):
            own_b1 = own_B[rows, None]
            similarity_bK = query_BD[rows] @ key_KD.T
            logits_bK = scale * similarity_bK
            if without_B is not None:
                logits_bK.scatter_(1, without_B[rows, None], -torch.inf)
            log_total_b1 = logits_bK.logsumexp(dim=1, keepdim=True)
            loss += (log_total_b1 - logits_bK.gather(1, own_b1)).sum()
            num_right += (logits_bK.argmax(dim=1, keepdim=True) == own_b1).sum()
            if wanted:
                # d loss / d logits: softmax less one at the own key. A key left out has probability exactly 0.
                slope_bK = logits_bK.sub_(log_total_b1).exp_()
                slope_bK.scatter_add_(1, own_b1, torch.full_like(log_total_b1, -1.0))
                scale_grad += (slope_bK * similarity_bK).sum()
                query_grad[rows] = slope_bK @ key_KD
                key_grad.addmm_(slope_bK.T, query_BD[rows])
        if wanted:
            query_grad *= scale / num
            key_grad *= scale / num
            scale_grad /= num
            ctx.save_for_backward(query_grad, key_grad, scale_grad)
        accuracy = num_right.to(query_BD.dtype) / num
        ctx.mark_non_differentiable(accuracy)
        return loss / num, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, key_grad, scale_grad = ctx.saved_tensors
        slope = grads[0]
        found = (query_grad, key_grad, scale_grad)
        passed = [slope * grad if needed else None for grad, needed in zip(found, ctx.needs_input_grad, strict=False)]
        return (*passed, None, None)


def contrast(
    query_BD: Tensor, key_KD: Tensor, scale: Tensor, own_B: Tensor, without_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each query's own key among all keys, with logits scale * <query, key>.

    Args:
        query_BD: normalised, float32 or float64.
        key_KD: normalised, same dtype.
        scale: scalar 1 / temperature of that dtype.
        own_B: int64, index of each query's own key.
        without_B: int64, index of one key for each query that does not take part (itself); None: all do.

    Returns:
        The loss, with gradient for queries, keys and scale, and the share (0 to 1) of queries whose own key is the
        most similar one, without.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _Contrast.apply
    return apply(query_BD, key_KD, scale, own_B, without_B)
