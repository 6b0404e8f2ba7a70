"""Contrast between two views of each picture over the global batch (SimCLR).

Declares: two ssl views, one head (three layers, batch norm between them), no further tower; two image passes.
Shape letters: B samples on this rank, G on all ranks, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slip.distributed import gather_rows
from slip.objectives.contrast import contrast
from slip.objectives.term import Term, unit_rows


def simclr_term(a_BE: Tensor, b_BE: Tensor, temperature: float) -> Term:
    """Normalised-temperature cross-entropy over the global batch (NT-Xent: SimCLR, 2002.05709, eq. 1).

    Each view must pick the other view of its picture among all 2G - 1 other views of all
    ranks; the cross-entropies of the two sides are averaged.

    Args:
        a_BE: embeddings of the first views of this rank, any float dtype, not yet normalised.
        b_BE: embeddings of the second views; row i shows the picture of row i of `a_BE`.
        temperature: cosine similarities are divided by it.

    Returns:
        Loss: scalar float32, the mean over this rank's 2B rows; computed in float32 even under
        autocast (float64 stays float64). Its mean over ranks is the loss of the global batch
        and, with gradients averaged over ranks, so is its gradient. Accuracy: share of first
        views that pick their second view.
    """
    with torch.autocast(a_BE.device.type, enabled=False):
        a_BE, b_BE = unit_rows(a_BE), unit_rows(b_BE)
        pair_GE, first = gather_rows(torch.cat([a_BE, b_BE], dim=1))
        a_GE, b_GE = pair_GE.chunk(2, dim=1)
        own_B = torch.arange(first, first + len(a_BE), device=a_BE.device)
        itself_B = own_B + len(a_GE)
        scale = a_BE.new_tensor(1 / temperature)
        a_loss, accuracy = contrast(a_BE, torch.cat([b_GE, a_GE]), scale, own_B, itself_B)
        b_loss, _ = contrast(b_BE, torch.cat([a_GE, b_GE]), scale, own_B, itself_B)
        return Term(loss=(a_loss + b_loss) / 2, accuracy=accuracy)
