"""Zero-shot evaluation against a count made one picture at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from slip.config import ModelConfig
from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD, evaluation_view
from slip.data.decode import decode_rgb
from slip.data.tokenizer import Tokenizer
from slip.evaluate.datasets import LabelledSet, open_labelled_set, read_pictures
from slip.evaluate.zeroshot import count_right, evaluate_zeroshot
from slip.models.model import Model
from slip.world import World
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled

CONFIG = ModelConfig(tower="tiny", image_size=16, context_length=16)
WORLD = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


class FakeModel(nn.Module):
    """Embeds pictures by a random projection of their mean colours, captions by a random table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.table = torch.randn(49408, 6, generator=generator)
        self.projection = torch.randn(3, 6, generator=generator)
        self.modes: list[bool] = []

    def encode_image(self, image_B3SS: Tensor) -> Tensor:
        self.modes.append(self.training)
        return image_B3SS.mean(dim=(2, 3)) @ self.projection * 7

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        self.modes.append(self.training)
        weights = (tokens_BL > 0).float() * torch.arange(1, tokens_BL.shape[1] + 1)
        return (self.table[tokens_BL] * weights[:, :, None]).sum(dim=1)


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def slow_ranks(model: FakeModel, labelled: LabelledSet) -> list[int]:
    """For each picture, how many classes score higher than its own."""
    tokenizer = Tokenizer(CONFIG.context_length)
    weights = []
    for name in labelled.classnames:
        rows = [unit(model.encode_text(torch.from_numpy(tokenizer([p])))[0].tolist()) for p in labelled.prompts(name)]
        weights.append(unit([sum(column) / len(rows) for column in zip(*rows, strict=True)]))
    ranks = []
    for found in read_pictures(labelled, rank=0, world_size=1):
        pixels = evaluation_view(decode_rgb(found.image), CONFIG.image_size).astype(np.float64) / 255
        pixels = (pixels - IMAGENET_MEAN) / IMAGENET_STD
        image = model.encode_image(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0].tolist()
        scores = [sum(a * b for a, b in zip(image, weight, strict=True)) for weight in weights]
        ranks.append(sum(score > scores[found.label] for score in scores))
    return ranks


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_counts_are_those_made_by_hand(tmp_path: Path, batch: int) -> None:
    folder = write_labelled(tmp_path / "set", [(picture(colour_of(i), i), i // 3) for i in range(24)])
    # More classes than five, so that the first five are not all of them.
    (tmp_path / "set/classnames.txt").write_text("\n".join([*COLOURS, "dog", "boat", "seven geese", "night"]) + "\n")
    labelled, model = open_labelled_set(folder), FakeModel()
    ranks = slow_ranks(model, labelled)
    model.modes.clear()
    model.train()
    found = evaluate_zeroshot(cast(Model, model), labelled, CONFIG, world=WORLD, batch=batch, workers=2)
    assert (found.num_pictures, found.num_classes) == (24, 8)
    assert found.num_top1 == sum(rank < 1 for rank in ranks)
    assert found.num_top5 == sum(rank < 5 for rank in ranks)
    assert 0 < found.num_top1 < found.num_top5 < 24
    assert (found.top1, found.chance) == (found.num_top1 / 24, 1 / 8)
    assert not any(model.modes)
    assert model.training


def test_ranks_together_count_every_picture_once(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "set", [(picture(colour_of(i), i), i % 4) for i in range(11)])
    labelled, model = open_labelled_set(folder), cast(Model, FakeModel())
    whole = evaluate_zeroshot(model, labelled, CONFIG, world=WORLD, batch=4, workers=1)
    # Without a process group nothing is summed: each call gives its rank's counts.
    worlds = [World(rank=rank, world_size=3, local_rank=0, device=torch.device("cpu")) for rank in range(3)]
    parts = [evaluate_zeroshot(model, labelled, CONFIG, world=world, batch=4, workers=1) for world in worlds]
    assert sum(part.num_pictures for part in parts) == whole.num_pictures == 11
    assert sum(part.num_top1 for part in parts) == whole.num_top1


def test_with_fewer_than_five_classes_all_are_among_the_first_five() -> None:
    image, weights = torch.eye(3), torch.eye(3)
    assert count_right(image, weights, torch.tensor([0, 1, 0])).tolist() == [2, 3]


def test_bf16_does_not_reach_the_scores() -> None:
    weights = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.001]]), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        counts = count_right(torch.tensor([[1.0, 0.0], [1.0, 0.001]]), weights, torch.tensor([0, 1]))
    assert counts.tolist() == [2, 2]


@pytest.mark.parametrize("data", [b"<html>not found</html>", b""])
def test_a_picture_that_is_none_is_named(tmp_path: Path, data: bytes) -> None:
    pictures: list[Any] = [(picture("red", 1), 0), (data, 1)]
    labelled = open_labelled_set(write_labelled(tmp_path / "set", pictures))
    with pytest.raises(InputError, match=r"0\.tar/s0001: "):
        evaluate_zeroshot(cast(Model, FakeModel()), labelled, CONFIG, world=WORLD, batch=4, workers=1)


def test_a_set_without_pictures_is_refused(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "set", [])
    (tmp_path / "set/test/nshards.txt").write_text("1")
    (tmp_path / "set/test/0.tar").write_bytes(b"\0" * 10240)
    with pytest.raises(InputError, match="no pictures"):
        evaluate_zeroshot(cast(Model, FakeModel()), open_labelled_set(folder), CONFIG, world=WORLD, batch=4, workers=1)
