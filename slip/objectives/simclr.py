"""Contrast between two views of each picture over the global batch.

Shape letters: B samples on this rank, G on all ranks, E embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from slip.distributed import gather_rows


def simclr_terms(a_BE: Tensor, b_BE: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`simclr_loss`, and the share (0 to 1) of this rank's first views that pick their second view."""
    wide = torch.promote_types(a_BE.dtype, torch.float32)
    with torch.autocast(a_BE.device.type, enabled=False):
        a_BE = F.normalize(a_BE.to(wide), dim=-1)
        b_BE = F.normalize(b_BE.to(wide), dim=-1)
        pair_GE, first = gather_rows(torch.cat([a_BE, b_BE], dim=1))
        a_GE, b_GE = pair_GE.chunk(2, dim=1)
        own_B = torch.arange(first, first + len(a_BE), device=a_BE.device)
        itself_BG = F.one_hot(own_B, len(a_GE)).bool()

        def logits(from_BE: Tensor, other_GE: Tensor, same_GE: Tensor) -> Tensor:
            """Similarity to all other views, then to all views of the same side but itself: (B, 2G)."""
            same_BG = (from_BE @ same_GE.T / temperature).masked_fill(itself_BG, -torch.inf)
            return torch.cat([from_BE @ other_GE.T / temperature, same_BG], dim=1)

        a_logits = logits(a_BE, b_GE, a_GE)
        loss = (F.cross_entropy(a_logits, own_B) + F.cross_entropy(logits(b_BE, a_GE, b_GE), own_B)) / 2
        accuracy = (a_logits.detach().argmax(dim=1) == own_B).to(wide).mean()
    return loss, accuracy


def simclr_loss(a_BE: Tensor, b_BE: Tensor, temperature: float) -> Tensor:
    """Normalised-temperature cross-entropy over the global batch (NT-Xent: SimCLR, 2002.05709, eq. 1).

    Each view must pick the other view of its picture among all 2G - 1 other views of all
    ranks; the cross-entropies of the two sides are averaged.

    Args:
        a_BE: embeddings of the first views of this rank, any float dtype, not yet normalised.
        b_BE: embeddings of the second views; row i shows the picture of row i of `a_BE`.
        temperature: cosine similarities are divided by it.

    Returns:
        Scalar float32, the mean over this rank's 2B rows; computed in float32 even under
        autocast (float64 stays float64). Its mean over ranks is the loss of the global batch
        and, with DDP averaging gradients, so is its gradient.
    """
    return simclr_terms(a_BE, b_BE, temperature)[0]
