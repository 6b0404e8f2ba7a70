"""Image-text contrast over the global batch with a softmax (CLIP).

Declares: one view and the caption, no further tower or head; one image pass, one text pass.
Shape letters: B samples on this rank, G on all ranks, D embedding width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from slip.distributed import gather_rows
from slip.objectives.contrast import contrast
from slip.objectives.term import Term, unit_rows

Gather = Literal["exact", "paper"]


def clip_term(image_BD: Tensor, text_BD: Tensor, logit_scale: Tensor, gather: Gather = "exact") -> Term:
    """Symmetric image-text cross-entropy over the global batch (CLIP, 2103.00020, fig. 3).

    Every image must pick its own caption among the captions of all ranks, and every
    caption its own image; the two cross-entropies are averaged.

    Args:
        image_BD: image embeddings of this rank, any float dtype, not yet normalised.
        text_BD: caption embeddings; row i belongs to row i of `image_BD`.
        logit_scale: scalar 1 / temperature, already exponentiated and clamped.
        gather: "paper" cuts the gradient of what comes from the ranks (this one too), as
            github.com/facebookresearch/SLIP does on more than one rank: same loss, but .49 to
            .52 of the towers' gradient on 2 to 16 ranks, turned by about 16 degrees.

    Returns:
        Loss: scalar float32, the mean over this rank's B rows; computed in float32 even under
        autocast (float64 stays float64). Its mean over ranks is the loss of the global batch
        and, with gradients averaged over ranks, so is its gradient ("exact"): how G samples
        are split over ranks changes neither. Accuracy: share of images that pick their caption.
    """
    with torch.autocast(image_BD.device.type, enabled=False):
        image_BD, text_BD = unit_rows(image_BD), unit_rows(text_BD)
        # Gathered embeddings keep their gradient. Cut it and the loss stays the same, but the towers' gradient
        # shrinks to about half and turns away from the one-process gradient.
        pair_GD, first = gather_rows(torch.cat([image_BD, text_BD], dim=1))
        if gather == "paper" and len(pair_GD) > len(image_BD):
            pair_GD = pair_GD.detach()
        image_GD, text_GD = (half.contiguous() for half in pair_GD.chunk(2, dim=1))
        own_B = torch.arange(first, first + len(image_BD), device=image_BD.device)
        scale = logit_scale.to(image_BD.dtype)
        image_loss, accuracy = contrast(image_BD, text_GD, scale, own_B)
        text_loss, _ = contrast(text_BD, image_GD, scale, own_B)
        return Term(loss=(image_loss + text_loss) / 2, accuracy=accuracy)
