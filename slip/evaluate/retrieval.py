"""Retrieval: is a picture's own caption among the first k that are found for it, and a caption's own picture?

In: a network with both towers, and pictures with one or more captions each. Out: recall at 1, 5 and 10 both ways.

Letters: N pictures, M captions, D width of the shared embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError
from slip.evaluate.captioned import CaptionedSet
from slip.evaluate.encode import arithmetic, encode, gathered
from slip.evaluate.metrics import wilson
from slip.evaluate.score import Score
from slip.evaluate.settings import Reading
from slip.evaluate.together import gather_uneven
from slip.evaluate.trained import Trained
from slip.evaluate.zeroshot import embed_texts, published_view
from slip.world import World

FIRST = (1, 5, 10)
_AT_ONCE = 256


def _places(scores_QK: Tensor, own_Q: Tensor) -> Tensor:
    """Where each query's column `own` stands among all columns, from 0, in a stable order from the largest score."""
    score_Q1 = scores_QK.gather(1, own_Q[:, None])
    before = (scores_QK == score_Q1) & (torch.arange(scores_QK.shape[1], device=own_Q.device) < own_Q[:, None])
    return ((scores_QK > score_Q1) | before).sum(dim=1)


def places(image_ND: Tensor, text_MD: Tensor, picture_of_M: Tensor) -> tuple[Tensor, Tensor]:
    """For each picture the place of its best own caption (N,), for each caption that of its picture (M,), from 0.

    A picture finds its caption among the first k if any of its own is there (as for CLIP, 2103.00020, table 13, and
    SLIP). Of equal scores the earlier comes first.

    Args:
        image_ND: embeddings of length 1.
        text_MD: embeddings of length 1.
        picture_of_M: int64, the number of each caption's picture; every picture has a caption.
    """
    of_picture = []
    for first in range(0, len(image_ND), _AT_ONCE):
        scores = image_ND[first : first + _AT_ONCE] @ text_MD.T
        numbers = torch.arange(first, first + len(scores), device=scores.device)
        own = scores.masked_fill(picture_of_M != numbers[:, None], float("-inf"))
        # argmax may name any of equal ones: the first is the first that reaches the maximum.
        best = (own == own.amax(dim=1, keepdim=True)).int().argmax(dim=1)
        of_picture.append(_places(scores, best))
    of_caption = [
        _places(text_MD[first : first + _AT_ONCE] @ image_ND.T, picture_of_M[first : first + _AT_ONCE])
        for first in range(0, len(text_MD), _AT_ONCE)
    ]
    return torch.cat(of_picture), torch.cat(of_caption)


def _texts(trained: Trained, captions: list[str], world: World, reading: Reading) -> Tensor:
    """Embeddings of all captions, each computed by one rank, (M, D) on the CPU."""
    bounds = [len(captions) * rank // world.world_size for rank in range(world.world_size + 1)]
    own = captions[bounds[world.rank] : bounds[world.rank + 1]]
    context = trained.config.context_length
    with torch.no_grad(), arithmetic(trained.precision, world):
        # One more than its own, lest a rank have none and not know how wide they are.
        found = embed_texts(trained.model, [*own, ""], context, batch=reading.batch, device=world.device)
    return gather_uneven(found[: len(own)])


def run(trained: Trained, captioned: CaptionedSet, settings: Reading, *, world: World) -> list[Score]:
    """The protocol for `slip evaluate`: six Scores, with Wilson's intervals (which take captions as independent)."""
    if not trained.model.has_text:
        raise ConfigError(
            f"retrieval needs a text tower, which objective {trained.objective.name} has not; give a checkpoint of "
            "clip, siglip or slip"
        )
    encoded = encode(
        trained,
        captioned.pictures,
        world=world,
        view=published_view(trained.config.image_size),
        batch=settings.batch,
        workers=settings.threads(),
        what="embedding",
    )
    image_ND = F.normalize(gathered(encoded).values_NW, dim=-1).to(world.device)
    text_MD = _texts(trained, [text for said in captioned.captions for text in said], world, settings)
    counts = torch.tensor([len(said) for said in captioned.captions])
    picture_of_M = torch.arange(len(counts)).repeat_interleave(counts).to(world.device)
    of_picture, of_caption = places(image_ND, text_MD.to(world.device), picture_of_M)
    scores = []
    for way, found in (("image to text", of_picture), ("text to image", of_caption)):
        for first in FIRST:
            hits = int((found < first).sum())
            scores.append(
                Score(
                    set=captioned.name,
                    protocol="retrieval",
                    metric=f"R@{first} {way}",
                    value=hits / len(found),
                    pictures=len(image_ND),
                    classes=0,
                    interval95=wilson(hits, len(found)),
                    counts={"hits": hits, "queries": len(found)},
                    detail={"captions": len(of_caption)},
                )
            )
    return scores
