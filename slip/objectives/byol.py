"""Prediction of a momentum tower's embedding of the other view, without negatives (BYOL).

Declares: two ssl views, projector and predictor, a momentum copy of image tower and projector; two image passes with
gradient and two of the momentum tower without.
Shape letters: B samples on this rank, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slip.objectives.term import Term, unit_rows


def byol_term(predictions: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Term:
    """Squared distance of unit vectors, both ways (BYOL, 2006.07733, eq. 2 and the symmetrised loss after it).

    || q1 - z2 ||^2 + || q2 - z1 ||^2 with all normalised, that is 2 - 2 cos each.

    Args:
        predictions: q1, q2 (B, E) of the two views, any float dtype, not yet normalised.
        targets: momentum projections z1, z2 (B, E); no gradient passes to them.

    Returns:
        Loss: scalar float32 or wider, the mean over this rank's rows. Samples do not meet each other in it (they do
        in the heads' batch norm), so its mean over ranks is that of the global batch.
    """
    with torch.autocast(predictions[0].device.type, enabled=False):
        one_BE, two_BE = (unit_rows(target_BE.detach()) for target_BE in targets)
        first_BE, second_BE = (unit_rows(prediction_BE) for prediction_BE in predictions)
        distances_B = (first_BE - two_BE).square().sum(dim=1) + (second_BE - one_BE).square().sum(dim=1)
        return Term(loss=distances_B.mean())
