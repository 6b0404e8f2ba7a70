"""Vectors of labelled pictures: each picture's own, in order, and one clear error for what is none."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import InputError
from slip.data.augment import normalise
from slip.data.decode import Pixels
from slip.evaluate import encode
from slip.evaluate.encode import decode_picture, encode_with, gathered, in_bf16
from slip.evaluate.labelled import LabelledPicture
from slip.models.model import Model
from slip.world import World
from tests.coloured_pictures import ALONE, Listed, coloured
from tests.tiny_data import picture


class Means(nn.Module):
    """Mean colours; as features twice as much."""

    def encode_image(self, views: Tensor) -> Tensor:
        return views.mean(dim=(2, 3))

    def image_features(self, views: Tensor) -> Tensor:
        return 2 * views.mean(dim=(2, 3))


def corner(one: LabelledPicture) -> Pixels:
    return np.asarray(decode_picture(one))[:8, :8]


def encoded(pictures: Listed, world: World = ALONE, **changed: Any) -> Any:
    settings: dict[str, Any] = {"batch": 4, "workers": 2, "what": "embedding"} | changed
    return encode_with(cast(Model, Means()), pictures, world=world, view=corner, **settings)


@pytest.mark.parametrize(("what", "factor"), [("embedding", 1), ("feature", 2)])
def test_every_picture_has_its_own_vector(what: str, factor: int) -> None:
    pictures = coloured(13, seed=4)
    found = encoded(pictures, what=what)
    assert found.numbers_N.tolist() == list(range(13))
    assert found.labels_N.tolist() == [one.label for one in pictures.pictures]
    for number, one in enumerate(pictures.pictures):
        view = torch.from_numpy(corner(one).copy()).permute(2, 0, 1)[None]
        assert torch.allclose(found.values_NW[number], factor * normalise(view).mean(dim=(2, 3))[0], atol=1e-6)


def test_shares_are_put_in_order() -> None:
    pictures = coloured(7, seed=4)
    parts = [
        encoded(pictures, World(rank=rank, world_size=2, local_rank=0, device=torch.device("cpu"))) for rank in (0, 1)
    ]
    assert [part.numbers_N.tolist() for part in parts] == [[0, 2, 4, 6], [1, 3, 5]]
    mixed = type(parts[0])(
        values_NW=torch.cat([part.values_NW for part in parts]),
        labels_N=torch.cat([part.labels_N for part in parts]),
        numbers_N=torch.cat([part.numbers_N for part in parts]),
    )
    whole, alone = gathered(mixed), encoded(pictures)
    assert whole.numbers_N.tolist() == alone.numbers_N.tolist()
    assert whole.labels_N.tolist() == alone.labels_N.tolist()
    assert torch.allclose(whole.values_NW, alone.values_NW, atol=1e-6)
    twice = type(mixed)(
        values_NW=mixed.values_NW, labels_N=mixed.labels_N, numbers_N=torch.tensor([0, 1, 2, 3, 4, 5, 5])
    )
    with pytest.raises(ValueError, match="7 vectors of 6 pictures"):
        gathered(twice)


@pytest.mark.parametrize(
    "image", [b"<html>not found</html>", b"", picture("red", 1)[:300], np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3))]
)
def test_a_picture_that_is_none_is_named(image: Any) -> None:
    pictures = coloured(6, seed=4).pictures
    pictures[5] = LabelledPicture(name="set/0.tar/s0005", image=image, label=0)
    with pytest.raises(InputError, match=r"^set/0\.tar/s0005: "):
        encoded(Listed(pictures))


def test_pictures_encoded_or_not_are_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    for image in (pixels, buffer.getvalue()):
        found = decode_picture(LabelledPicture(name="x", image=image, label=0))
        assert (found.mode, np.asarray(found).tolist()) == ("RGB", pixels.tolist())


def test_arithmetic_is_that_of_training() -> None:
    on_gpu = World(rank=0, world_size=1, local_rank=0, device=torch.device("cuda", 0))
    assert [in_bf16(name, ALONE) for name in ("auto", "bf16", "fp32")] == [False, True, False]
    assert [in_bf16(name, on_gpu) for name in ("auto", "bf16", "fp32")] == [True, True, False]


class OtherRank:
    """What another rank of a network in shards brings at each exchange: has it a batch, has it failed?"""

    def __init__(self, *turns: tuple[int, int]) -> None:
        self.turns = list(turns)

    def __call__(self, own: list[int]) -> list[int]:
        other = self.turns.pop(0) if self.turns else (0, 0)
        return [a + b for a, b in zip(own, other, strict=True)]


def test_ranks_of_a_network_in_shards_compute_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(other: OtherRank, batches: list[Any]) -> list[Any]:
        monkeypatch.setattr(encode, "sum_over_ranks", other)
        return list(encode._in_step(iter(batches)))

    # The other has three batches, then none.
    assert steps(OtherRank((1, 0), (1, 0), (1, 0)), ["a"]) == ["a", None, None]
    assert steps(OtherRank((1, 0)), ["a", "b", "c"]) == ["a", "b", "c"]
    assert steps(OtherRank((0, 0)), []) == []
    # Where the other fails, nobody goes on.
    assert steps(OtherRank((1, 0), (0, 1)), ["a", "b", "c"]) == ["a"]

    def broken() -> Any:
        yield "a"
        raise InputError("picture 7 is damaged")

    monkeypatch.setattr(encode, "sum_over_ranks", OtherRank((1, 0), (1, 0)))
    found: Any = encode._in_step(broken())
    assert next(found) == "a"
    with pytest.raises(InputError, match="picture 7"):
        next(found)
