"""Fine-tuning against a step written from the recipe with plain torch, and on pictures that can be learnt."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError, DivergedError
from slip.evaluate import finetune, training_state
from slip.evaluate.finetune import Finetuning, schedule
from slip.evaluate.finetune_config import FinetuneConfig, Recipe
from slip.evaluate.finetune_feed import Part
from slip.evaluate.labelled import LabelledPicture
from slip.evaluate.mixing import mix
from slip.evaluate.training_state import digest
from slip.world import World
from tests.coloured_pictures import ALONE, Listed, coloured_set, untrained

CONFIG = FinetuneConfig(
    epochs=4,
    warmup_epochs=0,
    batch=8,
    mix_batch=4,
    forward_batch=3,
    lr=1e-3,
    head_scale=1.0,
    workers=0,
    seed=3,
)


def part_of(seed: int) -> Part:
    draw = torch.Generator().manual_seed(seed)
    views = torch.randn(8, 3, 16, 16, generator=draw)
    return Part(views_B3SS=views, labels_B=torch.randint(0, 5, (8,), generator=draw))


def learning_rate_scale(name: str) -> float:
    """BEiT's, of a tower of four blocks."""
    if name.startswith("visual.blocks."):
        return float(0.65 ** (4 - int(name.split(".")[2])))
    return 1.0 if name.startswith(("head", "visual.norm")) else 0.65**5


def test_a_step_is_that_of_the_recipe() -> None:
    training = Finetuning(untrained(), 5, CONFIG, world=ALONE, steps_per_epoch=2)
    training.network.train()
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    for step in range(3):
        before, part = copy.deepcopy(training.network), part_of(step)
        # Ranks and forward passes split the batch; here it passes in one piece, in the order of its places.
        own = Part(views_B3SS=part.views_B3SS[training.places], labels_B=part.labels_B[training.places])
        loss = training.step(dataclasses.replace(own, views_B3SS=own.views_B3SS.clone()), step // 2, step % 2)
        views, targets = mix(own.views_B3SS.clone(), own.labels_B, [4, 4], 5, CONFIG, epoch=step // 2, step=step % 2)
        expected = -(targets * before(views).log_softmax(dim=1)).sum(dim=1).mean()
        assert loss == pytest.approx(expected.item(), abs=1e-6)
        gradients = torch.autograd.grad(expected, list(before.parameters()))
        lr = 1e-6 + 0.5 * (1e-3 - 1e-6) * (1 + math.cos(math.pi * step / 8))
        for (name, was), gradient in zip(before.named_parameters(), gradients, strict=True):
            now = training.network.get_parameter(name)
            assert now.grad is not None
            assert torch.allclose(now.grad, gradient, atol=1e-6), name
            # AdamW by hand from the gradient that was found: where it is rounding only, its sign decides.
            first, second = moments.get(name, (torch.zeros_like(was), torch.zeros_like(was)))
            first, second = 0.9 * first + 0.1 * now.grad, 0.999 * second + 0.001 * now.grad**2
            moments[name] = first, second
            rate = lr * learning_rate_scale(name)
            kept = 1.0 if was.ndim == 1 or name in ("visual.pos_embed", "visual.cls_token") else 1 - rate * 0.05
            change = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            assert torch.allclose(now, was * kept - rate * change, atol=1e-6), name


def test_learning_rates_rise_and_fall_as_published() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr_scale": 0.5}], lr=4e-3)
    recipe = Recipe(epochs=10, warmup_epochs=2, drop_path=0, layer_decay=0.65)
    rates = schedule(optimizer, recipe, steps_per_epoch=5, lr_end=1e-6)
    found = []
    for step in range(50):
        rates.step_update(step)
        found.append(optimizer.param_groups[0]["lr"] / 0.5)
    assert found[:11] == pytest.approx([4e-4 * step for step in range(11)])
    # BEiT's utils.cosine_scheduler.
    falling = [1e-6 + 0.5 * (4e-3 - 1e-6) * (1 + math.cos(math.pi * i / 40)) for i in range(40)]
    assert found[10:] == pytest.approx(falling)


def test_the_average_follows_the_weights() -> None:
    training = Finetuning(untrained(), 5, dataclasses.replace(CONFIG, ema_decay=0.75), world=ALONE, steps_per_epoch=2)
    before = training.network.head.weight.detach().clone()
    training.network.train()
    training.step(part_of(1), 0, 0)
    assert training.average is not None
    after = training.network.head.weight
    assert torch.allclose(training.average.weights["head.weight"], 0.75 * before + 0.25 * after)
    assert not torch.equal(before, after)


def test_gradients_are_scaled_down_to_the_norm_asked_for() -> None:
    training = Finetuning(untrained(), 5, dataclasses.replace(CONFIG, clip_norm=0.01), world=ALONE, steps_per_epoch=2)
    training.network.train()
    training.step(part_of(1), 0, 0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in training.network.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_no_number_ends_it() -> None:
    training = Finetuning(untrained(), 5, CONFIG, world=ALONE, steps_per_epoch=2)
    part = part_of(1)
    part.views_B3SS[0] = math.nan
    with pytest.raises(DivergedError, match="epoch 1, step 1: the loss is nan"):
        training.step(part, 0, 1)


QUICK = FinetuneConfig(
    epochs=6,
    warmup_epochs=1,
    batch=16,
    mix_batch=8,
    lr=2e-3,
    drop_path=0.1,
    workers=0,
    auto_augment="",
    colour_jitter=0.1,
    random_erasing=0.0,
)


def test_it_learns_colours_and_leaves_the_trained_model_alone(caplog: pytest.LogCaptureFixture) -> None:
    trained = untrained()
    before = digest(trained.model)
    with caplog.at_level(logging.INFO):
        (score,) = finetune.run(trained, coloured_set(64, 21), QUICK, world=ALONE)
    assert (score.protocol, score.pictures, score.classes) == ("finetune", 21, 4)
    assert score.counts["top1"] >= 18
    assert score.detail["layer_decay"] == 0.65
    assert score.detail["trained on"] == 64
    assert digest(trained.model) == before
    lines = [record.getMessage() for record in caplog.records if "epoch" in record.getMessage()]
    assert len(lines) == 6
    assert "epoch 6 of 6, step 4 of 4" in lines[-1]
    assert "0 min to go" in lines[-1]


class Dying(Listed):
    """Of which reading ends in a crash after so many pictures."""

    left = 40

    def __getitem__(self, index: int) -> LabelledPicture:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "SAVE_EVERY_S", 0.0)
    labelled = coloured_set(17, 4)
    config = dataclasses.replace(QUICK, epochs=3, ema_decay=0.9)
    dying = Dying(labelled.splits["train"][number] for number in range(17))
    broken = dataclasses.replace(labelled, splits={**labelled.splits, "train": dying})
    killed = dataclasses.replace(config, output=str(tmp_path / "killed"))
    with pytest.raises(KeyboardInterrupt):
        finetune.run(untrained(), broken, killed, world=ALONE)
    # Two epochs of 16 were read and the third was begun; one of 16 is left.
    dying.left = 16
    again = finetune.run(untrained(), broken, killed, world=ALONE)
    whole = finetune.run(
        untrained(), labelled, dataclasses.replace(config, output=str(tmp_path / "whole")), world=ALONE
    )
    assert again == whole
    found, expected = (
        torch.load(next((tmp_path / name).glob("finetune-colours-*.pt")), weights_only=True)["state"]
        for name in ("killed", "whole")
    )
    for kind in ("network", "average"):
        assert found[kind].keys() == expected[kind].keys()
        assert all(torch.equal(found[kind][name], expected[kind][name]) for name in expected[kind])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 pictures in its train split, fewer than a batch of 16"):
        finetune.run(untrained(), coloured_set(10, 4), QUICK, world=ALONE)
    many = World(rank=0, world_size=9, local_rank=0, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="less than a pair of pictures for each of 9 ranks"):
        finetune.run(untrained(), coloured_set(20, 4), QUICK, world=many)
