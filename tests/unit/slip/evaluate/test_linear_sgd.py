"""The published linear probe, against a loop written from main_linear.py."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import CheckpointError, InputError
from slip.data.augment import normalise
from slip.evaluate import linear, training_state
from slip.evaluate.labelled import LabelledPicture, LabelledSet
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.linear_sgd import first_head, in_batch_order, learning_rate, train_head
from slip.evaluate.training_state import TrainingState, digest
from slip.evaluate.training_views import epoch_order, linear_train_view
from tests.coloured_pictures import ALONE, Listed, coloured_set, untrained

CONFIG = LinearConfig(epochs=3, batch=10, lr=0.5, momentum=0.9, weight_decay=0.01, forward_batch=4, workers=2)


def slow_head(labelled: LabelledSet, config: LinearConfig) -> nn.Linear:
    """Picture by picture, momentum and decay by hand (torch's SGD: v = m v + g + wd p; p = p - lr v)."""
    trained, train = untrained(), labelled.splits["train"]
    head = first_head(128, 4, config.seed)
    velocity = [torch.zeros_like(parameter) for parameter in head.parameters()]
    for epoch in range(config.epochs):
        lr = 0.5 * 10 / 256 * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        order = epoch_order(len(train), seed=config.seed, epoch=epoch).tolist()
        for first in range(0, len(order), config.batch):
            losses = []
            for number in order[first : first + config.batch]:
                view = linear_train_view(train[number], 16, seed=config.seed, epoch=epoch, number=number)
                view_13SS = torch.from_numpy(np.array(view)).permute(2, 0, 1)[None]
                with torch.no_grad():
                    feature_1W = trained.model.visual(normalise(view_13SS))
                losses.append(F.cross_entropy(head(feature_1W), torch.tensor([train[number].label])))
            gradients = torch.autograd.grad(torch.stack(losses).mean(), list(head.parameters()))
            with torch.no_grad():
                for parameter, v, gradient in zip(head.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(gradient + 0.01 * parameter)
                    parameter.sub_(lr * v)
    return head


def test_the_head_is_that_of_the_slow_loop() -> None:
    # 24 pictures in batches of 10: the last one has 4, as published (no batch is dropped).
    labelled, trained = coloured_set(24, 4), untrained()
    before = digest(trained.model)
    found = train_head(trained, labelled, CONFIG, world=ALONE, workers=2)
    expected = slow_head(labelled, CONFIG)
    assert torch.allclose(found.weight, expected.weight, atol=1e-6)
    assert torch.allclose(found.bias, expected.bias, atol=1e-6)
    assert digest(trained.model) == before


def test_the_published_learning_rate() -> None:
    # main_linear.py with its defaults on 8 ranks: lr .1 x int(128 / 8) / 256, half a cosine over 90 epochs.
    config = LinearConfig()
    for epoch in (0, 1, 45, 89):
        published = 0.1 * int(128 / 8) / 256 * 0.5 * (1.0 + math.cos(math.pi * epoch / 90))
        assert learning_rate(config, epoch) == pytest.approx(published)


@pytest.mark.parametrize(("count", "world_size"), [(7, 1), (7, 2), (8, 4), (2, 4), (0, 2)])
def test_rows_come_back_in_the_order_of_the_batch(count: int, world_size: int) -> None:
    batch = torch.arange(count) * 10
    dealt = torch.cat([batch[rank::world_size] for rank in range(world_size)])
    assert torch.equal(in_batch_order(dealt, world_size), batch)


class Dying(Listed):
    """Of which reading ends in a crash after so many pictures."""

    left = 50

    def __getitem__(self, index: int) -> LabelledPicture:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_a_killed_probe_goes_on_from_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "SAVE_EVERY_S", 0.0)
    labelled, config = coloured_set(24, 4), dataclasses.replace(CONFIG, output=str(tmp_path), workers=1)
    dying = Dying(labelled.splits["train"][number] for number in range(24))
    with pytest.raises(KeyboardInterrupt):
        train_head(untrained(), dataclasses.replace(labelled, splits={"train": dying}), config, world=ALONE, workers=1)
    dying.left = 24
    # Two epochs of 24 were read and the third was begun: one epoch is left.
    found = train_head(
        *(untrained(), dataclasses.replace(labelled, splits={"train": dying}), config), world=ALONE, workers=1
    )
    assert dying.left == 0
    whole = train_head(untrained(), labelled, CONFIG, world=ALONE, workers=1)
    assert torch.equal(found.weight, whole.weight)


def test_each_recipe_and_tower_has_a_state_of_its_own(tmp_path: Path) -> None:
    labelled, config = coloured_set(8, 4), LinearConfig(epochs=1, batch=8, workers=1, output=str(tmp_path))
    first = train_head(untrained(), labelled, config, world=ALONE, workers=1)
    (path,) = tmp_path.glob("linear-colours-*.pt")
    for tower, other in ((0, dataclasses.replace(config, lr=1.0)), (4, config)):
        train_head(untrained(seed=tower), labelled, other, world=ALONE, workers=1)
    assert len(list(tmp_path.iterdir())) == 3
    # What is trained is not trained again, however it is computed.
    dying = Dying(labelled.splits["train"][number] for number in range(8))
    dying.left = 0
    done = dataclasses.replace(labelled, splits={"train": dying})
    found = train_head(untrained(), done, dataclasses.replace(config, forward_batch=3), world=ALONE, workers=1)
    assert torch.equal(found.weight, first.weight)
    path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a readable state"):
        train_head(untrained(), labelled, config, world=ALONE, workers=1)


def test_short_epochs_are_not_kept_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = TrainingState(str(tmp_path), "linear-colours", {"lr": 0.1})
    kept.save({"epochs": 1}, last=False)
    assert kept.load() is None
    monkeypatch.setattr(training_state, "SAVE_EVERY_S", 0.0)
    kept.save({"epochs": 2}, last=False)
    assert kept.load() == {"epochs": 2}
    monkeypatch.setattr(training_state, "SAVE_EVERY_S", 1e9)
    kept.save({"epochs": 3}, last=False)
    assert kept.load() == {"epochs": 2}
    kept.save({"epochs": 4}, last=True)
    assert kept.load() == {"epochs": 4}


def test_both_probes_learn_colours_and_say_what_they_did() -> None:
    config = LinearConfig(epochs=6, batch=16, lr=0.2, l2_decades=(-2, 2), l2_halvings=1, workers=1)
    published, fast = linear.run(untrained(), coloured_set(80, 22), config, world=ALONE)
    assert (published.protocol, fast.protocol) == ("linear-sgd", "linear-fast")
    for score in (published, fast):
        assert (score.pictures, score.classes, score.metric) == (22, 4, "accuracy")
        assert score.counts["top1"] >= 20
    assert published.detail["learning rate"] == pytest.approx(0.2 * 16 / 256)
    assert fast.detail["chosen on"] == "8 pictures of train"
    assert 1e-2 <= float(fast.detail["l2"]) <= 1e2


def test_a_validation_split_is_used_where_there_is_one() -> None:
    whole = coloured_set(40, 8)
    splits = {**whole.splits, "validation": Listed([whole.splits["test"][number] for number in range(8)])}
    config = LinearConfig(published=False, l2_decades=(0, 0), workers=1)
    (score,) = linear.run(untrained(), dataclasses.replace(whole, splits=splits), config, world=ALONE)
    assert score.detail["chosen on"] == "8 pictures of validation"
    assert score.detail["l2"] == 1.0


def test_a_damaged_picture_is_named() -> None:
    whole = coloured_set(8, 4)
    pictures = [whole.splits["train"][number] for number in range(8)]
    pictures[5] = LabelledPicture(name="train/5", image=b"<html>", label=1)
    broken = dataclasses.replace(whole, splits={**whole.splits, "train": Listed(pictures)})
    for config in (
        LinearConfig(fast=False, epochs=1, workers=1),
        LinearConfig(published=False, workers=1),
    ):
        with pytest.raises(InputError, match="train/5"):
            linear.run(untrained(), broken, config, world=ALONE)
