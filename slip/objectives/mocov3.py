"""Contrast with a momentum tower's embeddings of the other view (MoCo v3).

Declares: two ssl views, projector and predictor, a momentum copy of image tower and projector; two image passes with
gradient and two of the momentum tower without.
Shape letters: B samples on this rank, G on all ranks, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slip.distributed import gather_rows
from slip.objectives.contrast import contrast
from slip.objectives.term import Term, unit_rows


def mocov3_term(queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], temperature: float) -> Term:
    """Symmetric InfoNCE between queries and momentum keys of the global batch (MoCo v3, 2104.02057, eq. 1 and alg. 1).

    With ctr(q, k) = 2 t CE(<q, k of all ranks> / t): the loss is ctr(q1, k2) + ctr(q2, k1). The factor 2 t is that
    of the algorithm; it keeps the size of the gradient when the temperature t changes.

    Args:
        queries: predictions q1, q2 (B, E) of the two views, any float dtype, not yet normalised.
        keys: momentum projections k1, k2 (B, E); no gradient passes to them.
        temperature: cosine similarities are divided by it.

    Returns:
        Loss: scalar float32 or wider, the mean over this rank's rows; its mean over ranks is that of the global
        batch, and so is its gradient. Accuracy: share of first queries that pick the second view's key.
    """
    (first_BE, second_BE), num = queries, len(queries[0])
    with torch.autocast(first_BE.device.type, enabled=False), torch.no_grad():
        keys_GE, first = gather_rows(torch.cat([unit_rows(key_BE) for key_BE in keys], dim=1))
        one_GE, two_GE = (half.contiguous() for half in keys_GE.chunk(2, dim=1))
        own_B = torch.arange(first, first + num, device=first_BE.device)
    with torch.autocast(first_BE.device.type, enabled=False):
        first_BE, second_BE = unit_rows(first_BE), unit_rows(second_BE)
        scale = first_BE.new_tensor(1 / temperature)
        first_loss, accuracy = contrast(first_BE, two_GE, scale, own_B)
        second_loss, _ = contrast(second_BE, one_GE, scale, own_B)
        return Term(loss=2 * temperature * (first_loss + second_loss), accuracy=accuracy)
