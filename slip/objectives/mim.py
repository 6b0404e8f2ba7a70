"""Prediction of what hidden patches show (masked image modelling, BEiT's way with MAE's target).

As in BEiT (2106.08254, sec. 2), blocks of patches are hidden from the image tower behind a learnt token, and a linear
layer on the tower's output at each hidden patch predicts what is there. BEiT's target is a discrete code of a
separately trained tokenizer, which would be a second model to train or download; the target here is the patch itself,
as MAE (2111.06377, sec. 3) has it: its pixels, less their mean and divided by their standard deviation.

Declares: one ssl view with hidden patches, a linear head and a token for them, no further tower; one image pass.
Letters: B samples on this rank, M hidden patches of each, P values of a patch, S side of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slip.objectives.term import Term, widen

_EPS = 1e-6


def patch_targets(view_B3SS: Tensor, hidden_BM: Tensor, patch: int) -> Tensor:
    """Pixels of the hidden patches, each patch less its mean and divided by its deviation: (B, M, P), P = 3 patch^2.

    Args:
        view_B3SS: the normalised view the tower sees (its own normalisation per colour does change the target).
        hidden_BM: int64, numbers of the hidden patches, counted along rows.
        patch: side of a patch in pixels.
    """
    B, channels, side, _ = view_B3SS.shape
    grid = side // patch
    patches = widen(view_B3SS).view(B, channels, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
    patches_BNP = patches.reshape(B, grid * grid, -1)
    chosen_BMP = patches_BNP.gather(1, hidden_BM[..., None].expand(-1, -1, patches_BNP.shape[-1]))
    mean, variance = chosen_BMP.mean(dim=-1, keepdim=True), chosen_BMP.var(dim=-1, keepdim=True)
    return (chosen_BMP - mean) / (variance + _EPS).sqrt()


def mim_term(predicted_BMP: Tensor, target_BMP: Tensor) -> Term:
    """Mean squared error of the hidden patches' normalised pixels (MAE, 2111.06377, sec. 3, reconstruction target).

    Every sample hides equally many patches, so the mean over this rank's patches is a mean over samples, and its
    mean over ranks is that of the global batch.
    """
    with torch.autocast(predicted_BMP.device.type, enabled=False):
        return Term(loss=(widen(predicted_BMP) - widen(target_BMP)).square().mean())
