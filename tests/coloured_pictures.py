"""A labelled set of coloured pictures in memory, and an untrained tower: what training on labels is tried on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from slip.config import ModelConfig, ObjectiveConfig
from slip.evaluate.labelled import LabelledPicture, LabelledSet, Pictures
from slip.evaluate.trained import Trained
from slip.models.registry import build_model
from slip.world import World
from tests.tiny_data import COLOURS

ALONE = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


class Listed:
    """Pictures of a list."""

    def __init__(self, pictures: Iterable[LabelledPicture]) -> None:
        self.pictures = list(pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> LabelledPicture:
        return self.pictures[index]

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """Every world_size-th."""
        for number in range(rank, len(self), world_size):
            yield number, self[number]


def coloured(count: int, *, seed: int, noise: int = 30, wrong_every: int = 0) -> Listed:
    """Noisy squares, as many of each colour; every so many have the label of another colour."""
    draw, found = np.random.default_rng(seed), []
    for number in range(count):
        colour = list(COLOURS.values())[number % len(COLOURS)]
        pixels = np.clip(np.asarray(colour) + draw.integers(-noise, noise + 1, (20, 24, 3)), 0, 255)
        label = number + int(wrong_every > 0 and number % wrong_every == 0)
        image = pixels.astype(np.uint8)
        found.append(LabelledPicture(name=f"{seed}/{number}", image=image, label=label % len(COLOURS)))
    return Listed(found)


def coloured_set(train: int, test: int, *, noise: int = 30, wrong_every: int = 0) -> LabelledSet:
    """With a train and a test split, the latter with so many wrong labels."""
    splits: dict[str, Pictures] = {
        "train": coloured(train, seed=1, noise=noise),
        "test": coloured(test, seed=2, noise=noise, wrong_every=wrong_every),
    }
    return LabelledSet(
        name="colours",
        url="memory/colours",
        classnames=tuple((colour,) for colour in COLOURS),
        templates=(),
        splits=splits,
    )


def untrained(*, image_size: int = 16, seed: int = 3) -> Trained:
    """A tiny tower with its first weights."""
    shape = ModelConfig(tower="tiny", image_size=image_size, ssl_hidden=8, ssl_dim=4)
    objective = ObjectiveConfig(name="simclr")
    return Trained(
        model=build_model(shape, objective, seed=seed).eval(),
        config=shape,
        objective=objective,
        weights="model",
        has_average=False,
        precision="fp32",
        step=0,
        versions={},
        data_sha256=None,
    )
