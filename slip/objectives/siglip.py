"""Image-text contrast with a sigmoid: every pair of the global batch is a question of its own (SigLIP).

Captions travel from rank to rank, so no rank ever holds more than its own and its neighbour's (2303.15343, sec. 3.3);
a pair of chunks is computed in blocks whose gradient is found on the way.

Declares: one view and the caption, a learnt bias, no further tower or head; one image pass, one text pass.
Shape letters: B samples on this rank, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from slip.distributed import shift_rows, world_size
from slip.objectives.contrast import row_blocks
from slip.objectives.term import Term, unit_rows


class _Pairs(torch.autograd.Function):
    """Sum of -log sigmoid(z (scale <image, text> + bias)), z = 1 on the diagonal if `own` else -1 everywhere."""

    @staticmethod
    def forward(ctx: Any, image_BD: Tensor, text_BD: Tensor, scale: Tensor, bias: Tensor, own: bool) -> Tensor:
        loss = image_BD.new_zeros(())
        grads = [torch.zeros_like(x) for x in (image_BD, text_BD, scale, bias)]
        for rows in row_blocks(len(image_BD), len(text_BD)):
            similarity_bB = image_BD[rows] @ text_BD.T
            sign_bB = torch.full_like(similarity_bB, -1.0)
            if own:
                sign_bB.diagonal(offset=rows.start).fill_(1.0)
            logits_bB = sign_bB * (scale * similarity_bB + bias)
            loss -= F.logsigmoid(logits_bB).sum()
            # d loss / d (scale <image, text> + bias)
            slope_bB = -sign_bB * torch.sigmoid(-logits_bB)
            grads[0][rows] = scale * (slope_bB @ text_BD)
            grads[1].addmm_(slope_bB.T, scale * image_BD[rows])
            grads[2] += (slope_bB * similarity_bB).sum()
            grads[3] += slope_bB.sum()
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(grads[0] * grad for grad in ctx.saved_tensors), None)


def siglip_term(image_BD: Tensor, text_BD: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Term:
    """Pairwise sigmoid loss over the global batch (SigLIP, 2303.15343, eq. 1 and alg. 1).

    -1/G sum over images i and captions j of log sigmoid(z_ij (scale <x_i, y_j> + bias)), z_ij = 1 where i = j, else -1.

    Args:
        image_BD: image embeddings of this rank, any float dtype, not yet normalised.
        text_BD: caption embeddings; row i belongs to row i of `image_BD`.
        logit_scale: scalar, already exponentiated.
        logit_bias: scalar, -10 at the start (most pairs are no pairs).

    Returns:
        Loss: scalar float32 or wider: this rank's images with the captions of all ranks, divided by B. Its mean over
        ranks is the loss of the global batch, and so is its gradient. Accuracy: share of this rank's images that pick
        their caption among this rank's.
    """
    with torch.autocast(image_BD.device.type, enabled=False):
        image_BD, text_BD = unit_rows(image_BD), unit_rows(text_BD)
        scale, bias = logit_scale.to(image_BD.dtype), logit_bias.to(image_BD.dtype)
        pairs: Callable[..., Tensor] = _Pairs.apply
        total, chunk_BD = image_BD.new_zeros(()), text_BD
        for number in range(world_size()):
            if number:
                chunk_BD = shift_rows(chunk_BD)
            total = total + pairs(image_BD, chunk_BD, scale, bias, number == 0)
        with torch.no_grad():
            right = [
                ((image_BD[rows] @ text_BD.T).argmax(dim=1).cpu() == torch.arange(rows.start, rows.stop)).sum()
                for rows in row_blocks(len(image_BD), len(text_BD))
            ]
            accuracy = torch.stack(right).sum().to(image_BD) / len(image_BD)
        return Term(loss=total / len(image_BD), accuracy=accuracy)
