"""Classification by nearest neighbours: what a tower's features are worth without any training on labels.

In: features of labelled pictures and of pictures to classify, or a trained network and a set with both. Out: classes,
or one Score.

Letters: N labelled pictures, B pictures to classify, W width of a feature, C classes.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError
from slip.evaluate.answers import answers, gathered_answers, score_of
from slip.evaluate.encode import encode, gathered
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.score import Score
from slip.evaluate.settings import KnnConfig, Reading
from slip.evaluate.trained import Trained
from slip.evaluate.training_views import evaluated_on
from slip.evaluate.zeroshot import published_view
from slip.world import World

NEIGHBOURS = KnnConfig().neighbours
TEMPERATURE = KnnConfig().temperature
_AT_ONCE = 1024


def knn_votes(
    query_BW: Tensor,
    bank_NW: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """What the most similar pictures say, as a share of all votes for each class: (B, C) float32.

    A neighbour votes with exp(cosine similarity / temperature) (Wu et al., 1805.01978, sec. 3.4; k = 20 and 0.07 as in
    DINO, 2104.14294).

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
        found.append(of_class.scatter_add_(1, labels_N[nearest.indices], votes) / votes.sum(dim=1, keepdim=True))
    return torch.cat(found)


def knn_classes(
    query_BW: Tensor,
    bank_NW: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """The class with most votes (see `knn_votes`), of classes with equally many the first one: (B,) int64."""
    votes_BC = knn_votes(query_BW, bank_NW, labels_N, num_classes, neighbours=neighbours, temperature=temperature)
    return votes_BC.argmax(dim=1)


def run(trained: Trained, labelled: LabelledSet, settings: KnnConfig, *, world: World, reading: Reading) -> list[Score]:
    """The protocol for `slip evaluate`: the test split by the pictures of the train split.

    Each rank encodes its share of both, gets the train split's features of all, and classifies its own pictures.
    """
    if "train" not in labelled.splits:
        found = ", ".join(sorted(labelled.splits))
        raise InputError(f"{labelled.url}: has no train split (there is: {found}), whose pictures would vote")
    features = partial(
        encode,
        trained,
        world=world,
        view=published_view(trained.config.image_size),
        batch=reading.batch,
        workers=reading.threads(),
        what="feature",
    )
    bank = gathered(features(labelled.splits["train"]))
    if not len(bank):
        raise InputError(f"{labelled.url}: its train split has no pictures")
    own = features(evaluated_on(labelled))
    votes_NC = knn_votes(
        own.values_NW.to(world.device),
        bank.values_NW.to(world.device),
        bank.labels_N.to(world.device),
        len(labelled.classnames),
        neighbours=settings.neighbours,
        temperature=settings.temperature,
    )
    return [
        score_of(
            gathered_answers(answers(votes_NC, own.labels_N, own.numbers_N)),
            labelled,
            protocol="knn",
            detail={
                "neighbours": settings.neighbours,
                "temperature": settings.temperature,
                "train pictures": len(bank),
            },
        )
    ]
