"""Recall against a list of all scores sorted for each query."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from slip.data.tokenizer import Tokenizer
from slip.evaluate.captioned import CaptionedSet
from slip.evaluate.retrieval import places, run
from slip.evaluate.settings import Reading
from slip.evaluate.zeroshot import published_view
from slip.models.model import Model
from tests.coloured_pictures import ALONE, coloured, untrained


def slow_places(image: Tensor, text: Tensor, picture_of: list[int]) -> tuple[list[int], list[int]]:
    """Sort everything for each query (Python's sort is stable)."""
    scores = (image @ text.T).tolist()
    of_picture = []
    for number, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda m: -row[m])
        of_picture.append(next(at for at, m in enumerate(order) if picture_of[m] == number))
    of_caption = []
    for m, own in enumerate(picture_of):
        order = sorted(range(len(scores)), key=lambda n: -scores[n][m])
        of_caption.append(order.index(own))
    return of_picture, of_caption


@pytest.mark.parametrize(("pictures", "steps"), [(1, 1000), (40, 1000), (300, 3)])
def test_places_are_those_of_a_sorted_list(pictures: int, steps: int) -> None:
    draw = torch.Generator().manual_seed(pictures)
    counts = torch.randint(1, 6, (pictures,), generator=draw)
    picture_of = torch.arange(pictures).repeat_interleave(counts)
    # Few different values: most scores are equal to others, and sums are exact.
    image = torch.randint(-steps, steps, (pictures, 4), generator=draw).float()
    text = torch.randint(-steps, steps, (len(picture_of), 4), generator=draw).float()
    text += image[picture_of]
    found = places(image, text, picture_of)
    assert (found[0].tolist(), found[1].tolist()) == slow_places(image, text, picture_of.tolist())


class Words(nn.Module):
    """Mean colours, and a random vector for a text."""

    has_text = True

    def encode_image(self, views: Tensor) -> Tensor:
        return views.mean(dim=(2, 3))

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        return torch.stack([torch.randn(3, generator=torch.Generator().manual_seed(int(t.sum()))) for t in tokens_BL])


def test_the_protocol_gives_both_ways() -> None:
    captions = tuple(tuple(f"picture {n} said {k}" for k in range(1 + n % 3)) for n in range(30))
    captioned = CaptionedSet(name="said", url="memory/said", pictures=coloured(30, seed=3), captions=captions)
    trained = dataclasses.replace(untrained(), model=cast(Model, Words()))
    found = {s.metric: s for s in run(trained, captioned, Reading(batch=7, workers=2), world=ALONE)}

    view, model, tokenizer = published_view(16), Words(), Tokenizer(trained.config.context_length)
    pixels = [torch.from_numpy(view(one).copy()).permute(2, 0, 1) for _, one in captioned.pictures.share(0, 1)]
    from slip.data.augment import normalise

    image = F.normalize(model.encode_image(normalise(torch.stack(pixels))), dim=1)
    texts = [text for said in captions for text in said]
    text = F.normalize(model.encode_text(torch.from_numpy(tokenizer(texts))), dim=1)
    picture_of = [n for n, said in enumerate(captions) for _ in said]
    of_picture, of_caption = slow_places(image, text, picture_of)
    for first in (1, 5, 10):
        for way, slow in (("image to text", of_picture), ("text to image", of_caption)):
            score = found.pop(f"R@{first} {way}")
            hits = sum(place < first for place in slow)
            assert (score.counts, score.pictures) == ({"hits": hits, "queries": len(slow)}, 30)
            assert score.value == hits / len(slow)
            assert score.interval95 is not None
            assert score.interval95[0] <= score.value <= score.interval95[1]
    assert not found


def test_without_a_text_tower_there_is_no_retrieval() -> None:
    nothing: Any = None
    with pytest.raises(ConfigError, match="retrieval needs a text tower, which objective simclr has not"):
        run(untrained(), nothing, Reading(), world=ALONE)
