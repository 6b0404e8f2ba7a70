"""Classification by nearest neighbours: what a tower's features are worth without any training on labels.

In: features of labelled pictures and of pictures to classify. Out: classes.

Letters: N labelled pictures, B pictures to classify, W width of a feature, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 20
TEMPERATURE = 0.07
_AT_ONCE = 1024


def knn_classes(
    query_BW: Tensor,
    bank_NW: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """The class with most votes among the most similar pictures: (B,) int64.

    A neighbour votes with exp(cosine similarity / temperature) (Wu et al., 1805.01978, sec. 3.4; k = 20 and 0.07 as in
    DINO, 2104.14294). Of classes with equal votes the first one.

    Args:
        query_BW: features, any float dtype, not normalised.
        bank_NW: features of the labelled pictures.
        labels_N: int64, their classes.
        neighbours: at most N are asked.
    """
    bank_NW = F.normalize(bank_NW.float(), dim=1)
    found = []
    for query_bW in torch.split(F.normalize(query_BW.float(), dim=1), _AT_ONCE):
        nearest = (query_bW @ bank_NW.T).topk(min(neighbours, len(bank_NW)), dim=1)
        # Less the largest: the same votes, which cannot overflow.
        votes = ((nearest.values - nearest.values[:, :1]) / temperature).exp()
        of_class = torch.zeros(len(query_bW), num_classes, device=votes.device)
        found.append(of_class.scatter_add_(1, labels_N[nearest.indices], votes).argmax(dim=1))
    return torch.cat(found)
