from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, InputError
from slip.evaluate.finetune_config import RECIPES, FinetuneConfig, recipe_of
from slip.evaluate.finetune_feed import Augmentation, Feed, augmented
from slip.evaluate.labelled import LabelledPicture
from slip.evaluate.training_views import epoch_order
from tests.coloured_pictures import Listed, coloured

CONFIG = FinetuneConfig(batch=8, mix_batch=4, seed=2)


def views_of(
    config: FinetuneConfig, places: list[int], workers: int, epoch: int = 1
) -> list[tuple[torch.Tensor, list[int]]]:
    with Feed(coloured(19, seed=1), 4, config, size=16, places=places, workers=workers) as feed:
        return [(part.views_B3SS, part.labels_B.tolist()) for part in feed.parts(epoch)]


def test_processes_make_the_views_that_none_make_and_every_rank_its_own() -> None:
    alone, order = views_of(CONFIG, list(range(8)), 0), epoch_order(19, seed=2, epoch=1)
    # Two whole batches of 8; three pictures are left out.
    assert [labels for _, labels in alone] == [[n % 4 for n in order[first : first + 8]] for first in (0, 8)]
    with_processes = views_of(CONFIG, [6, 1, 3], 1)
    for (whole, labels), (part, own_labels) in zip(alone, with_processes, strict=True):
        assert torch.equal(part, whole[[6, 1, 3]])
        assert own_labels == [labels[6], labels[1], labels[3]]
    assert not torch.equal(views_of(CONFIG, [0], 0, epoch=2)[0][0], views_of(CONFIG, [0], 0, epoch=1)[0][0])


def test_views_leave_everybodys_random_numbers_alone() -> None:
    augmentation = Augmentation(size=16, auto_augment="rand-m9-mstd0.5-inc1", colour_jitter=0.4, random_erasing=1.0)
    pictures = [coloured(1, seed=1)[0]] * 3

    def states() -> tuple[object, str, bytes]:
        return random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002

    before = states()
    views = augmented(pictures, [5, 6, 5], augmentation)
    assert states() == before
    assert views.shape == (3, 3, 16, 16)
    assert (views[0] == views[2]).all()
    assert (views[0] != views[1]).any()


def test_every_draw_of_the_published_augmentation_can_be_done() -> None:
    # At full strength posterize keeps 0 bits, which Pillow has come to refuse (one draw in 40 as published).
    augmentation = Augmentation(size=8, auto_augment="rand-m10-inc1-n15", colour_jitter=0.4, random_erasing=0.0)
    views = augmented([coloured(1, seed=1)[0]] * 20, list(range(20)), augmentation)
    assert np.isfinite(views).all()


def test_a_rectangle_is_noise_where_erasing_is_asked_for() -> None:
    plain = LabelledPicture(name="grey", image=np.full((32, 32, 3), 124, dtype=np.uint8), label=0)
    plainly = Augmentation(size=32, auto_augment="", colour_jitter=0.0, random_erasing=0.0)
    untouched = augmented([plain], [1], plainly)
    # Normalised as the tower was trained: (124 / 255 - mean) / std.
    assert untouched[0, :, 5, 5] == pytest.approx(
        [(124 / 255 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)], abs=1e-5
    )
    assert untouched[0, 0].std() < 1e-6
    erased = augmented([plain] * 20, list(range(20)), dataclasses.replace(plainly, random_erasing=1.0))
    share = (np.abs(erased - untouched) > 1e-6).any(axis=1).mean(axis=(1, 2))
    assert (share > 0.01).all()
    assert (share < 0.36).all()


def test_a_damaged_picture_is_named() -> None:
    pictures = Listed([*coloured(7, seed=1).pictures, LabelledPicture(name="x/7", image=b"\xff\xd8", label=0)])
    feed = Feed(pictures, 4, CONFIG, size=16, places=list(range(8)), workers=0)
    with feed, pytest.raises(InputError, match="x/7"):
        next(feed.parts(0))


def test_recipes_are_the_published_ones_and_every_number_an_option() -> None:
    published = {
        "vits16": (100, 20, 0.0, 0.65),
        "vitb16": (100, 20, 0.1, 0.65),
        "vitl16": (50, 5, 0.1, 0.75),
    }
    for tower, expected in published.items():
        found = recipe_of(FinetuneConfig(), tower)  # type: ignore[arg-type]
        assert (found.epochs, found.warmup_epochs, found.drop_path, found.layer_decay) == expected
    assert set(RECIPES) == {"tiny", *published}
    own = recipe_of(FinetuneConfig(epochs=3, warmup_epochs=0, drop_path=0.0, layer_decay=1.0), "vitl16")
    assert (own.epochs, own.warmup_epochs, own.drop_path, own.layer_decay) == (3, 0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 7),
        ("mix_batch", 0),
        ("epochs", 0),
        ("drop_path", 1.0),
        ("layer_decay", 0.0),
        ("lr", 0.0),
        ("random_erasing", 1.1),
        ("workers", -1),
        ("mixup", -0.1),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--finetune.{field.replace('_', '-')} is"):
        FinetuneConfig(**{field: value})  # type: ignore[arg-type]
