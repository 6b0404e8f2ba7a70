"""The protocol "finetune": the whole image tower trained on labels, then evaluated.

In: a trained network and a labelled set with a train split. Out: one score. The recipe is BEiT's as SLIP published it
(github.com/facebookresearch/SLIP, beit_finetuning), made of timm's parts: RandAugment and random erasing, mixup and
cutmix with smoothed labels, AdamW with a learning rate that falls from layer to layer, warm-up and cosine by steps.
A step's gradient is that of the whole batch, however it is split over ranks and forward passes.

Letters: B pictures of this rank, S side of a view, C classes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, DivergedError
from slip.data.worker_count import cores_of_this_rank
from slip.distributed import all_reduce_sum
from slip.evaluate.answers import answers, gathered_answers, score_of
from slip.evaluate.encode import arithmetic, encode
from slip.evaluate.finetune_config import FinetuneConfig, Recipe, recipe_of
from slip.evaluate.finetune_feed import Feed, Part
from slip.evaluate.finetuned import Finetuned, draw_drop_path, drop_paths, layer_groups
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.mixing import groups_of_rank, mix
from slip.evaluate.score import Score
from slip.evaluate.together import together
from slip.evaluate.trained import Trained
from slip.evaluate.training_state import TrainingState, digest, identity
from slip.evaluate.training_views import evaluated_on, finetuned_view, trained_on
from slip.gradients import GradientAverager
from slip.models.ema import WeightAverage
from slip.torchvision_compat import import_torchvision
from slip.world import World

import_torchvision()
from timm.loss.cross_entropy import SoftTargetCrossEntropy  # noqa: E402
from timm.scheduler.cosine_lr import CosineLRScheduler  # noqa: E402

logger = logging.getLogger(__name__)

_LOG_EVERY = 100


def schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, *, steps_per_epoch: int, lr_end: float
) -> CosineLRScheduler:
    """timm's: linear from 0 over the warm-up, then half a cosine to `lr_end`; `step_update` sets a step's rates."""
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), recipe.epochs * steps_per_epoch)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(recipe.epochs * steps_per_epoch - warmup, 1),
        lr_min=lr_end,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )


class Finetuning:
    """A network in training; every rank has the same one.

    Args:
        steps_per_epoch: whole batches of the train split.
    """

    def __init__(
        self,
        trained: Trained,
        num_classes: int,
        config: FinetuneConfig,
        *,
        world: World,
        steps_per_epoch: int,
    ) -> None:
        self.config, self.world, self.steps_per_epoch = config, world, steps_per_epoch
        self.recipe = recipe_of(config, trained.config.tower)
        self.shape = dataclasses.replace(trained.config, image_size=config.image_size or trained.config.image_size)
        self._num_classes, self._precision = num_classes, trained.precision
        self.network = Finetuned(
            trained.model, self.shape, self.recipe, num_classes, scale=config.head_scale, seed=config.seed
        ).to(world.device)
        groups = layer_groups(self.network, self.recipe, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        self._schedule = schedule(self.optimizer, self.recipe, steps_per_epoch=steps_per_epoch, lr_end=config.lr_end)
        self.average = WeightAverage(self.network, config.ema_decay) if config.ema_decay else None
        self._averager, self._loss = GradientAverager(self.network), SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]
        self._groups = groups_of_rank(config.batch, config.mix_batch, rank=world.rank, world_size=world.world_size)
        self.places = [place for group in self._groups for place in group]
        """Of this rank's pictures in a batch."""

    def _gradient(self, views_B3SS: Tensor, targets_BC: Tensor, kept_PB: Tensor) -> Tensor:
        """This rank's share of the batch's mean loss; gradients are those of that mean, on all ranks."""
        config, paths = self.config, drop_paths(self.network)
        self._averager.begin()
        parts = list(
            zip(*(torch.split(rows, config.forward_batch) for rows in (views_B3SS, targets_BC, kept_PB.T)), strict=True)
        )
        total = torch.zeros((), device=self.world.device)
        for number, (views_b3SS, targets_bC, kept_bP) in enumerate(parts):
            for path, kept_b in zip(paths, kept_bP.T, strict=True):
                path.kept_B = kept_b
            with arithmetic(self._precision, self.world):
                logits_bC = self.network(views_b3SS)
            share = self._loss(logits_bC, targets_bC) * len(views_b3SS) / config.batch
            # Ranks' gradients are averaged, not summed.
            scaled = share * self.world.world_size
            if number == len(parts) - 1:
                with self._averager.final():
                    scaled.backward()
            else:
                scaled.backward()
            total += share.detach()
        self._averager.finish()
        return total

    def step(self, part: Part, epoch: int, step: int) -> float:
        """One optimizer step; the mean loss of the batch. DivergedError when that is not a number."""
        config, when = self.config, {"epoch": epoch, "step": step}
        views_B3SS, labels_B = part.views_B3SS.to(self.world.device), part.labels_B.to(self.world.device)
        sizes = [len(group) for group in self._groups]
        views_B3SS, targets_BC = mix(views_B3SS, labels_B, sizes, self._num_classes, config, **when)
        rates = [path.drop_prob for path in drop_paths(self.network)]
        kept_PB = draw_drop_path(rates, config.batch, self.places, seed=config.seed, **when)
        self._schedule.step_update(epoch * self.steps_per_epoch + step)
        loss = all_reduce_sum(self._gradient(views_B3SS, targets_BC, kept_PB.to(self.world.device))).item()
        if not math.isfinite(loss):
            raise DivergedError(f"fine-tuning: epoch {epoch + 1}, step {step}: the loss is {loss}; lower --finetune.lr")
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return loss

    def state(self, epochs: int) -> dict[str, Any]:
        """All that is needed to go on after so many epochs."""
        average = None if self.average is None else self.average.weights
        return {
            "epochs": epochs,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def go_on(self, state: dict[str, Any]) -> int:
        """Become what `state` was; the epochs it has behind it."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            for name, value in state["average"].items():
                self.average.weights[name].copy_(value)
        return int(state["epochs"])


def _check(labelled: LabelledSet, config: FinetuneConfig, world: World) -> None:
    """Refuse what cannot be: ConfigError."""
    found = len(trained_on(labelled))
    if found < config.batch:
        raise ConfigError(
            f"{labelled.url}: {found} pictures in its train split, fewer than a batch of {config.batch}: not one step; "
            "lower --finetune.batch"
        )
    if config.batch < 2 * world.world_size:
        raise ConfigError(
            f"--finetune.batch {config.batch} is less than a pair of pictures for each of {world.world_size} ranks; "
            "start fewer, or raise it"
        )


def _epochs(name: str, training: Finetuning, feed: Feed, first: int) -> Iterator[int]:
    """Train; after each epoch, how many there were."""
    config, epochs, began_s = training.config, training.recipe.epochs, time.perf_counter()
    training.network.train()
    for epoch in range(first, epochs):
        parts, total = feed.parts(epoch), 0.0
        for step in range(training.steps_per_epoch):
            loss = training.step(together(partial(next, parts)), epoch, step)
            total += loss
            done = (epoch - first) * training.steps_per_epoch + step + 1
            if step + 1 == training.steps_per_epoch or done % _LOG_EVERY == 0:
                step_s = (time.perf_counter() - began_s) / done
                left = (epochs - first) * training.steps_per_epoch - done
                logger.info(
                    "%s: fine-tuning: epoch %d of %d, step %d of %d, loss %.4f, %.0f pictures/s, %.0f min to go",
                    *(name, epoch + 1, epochs, step + 1, training.steps_per_epoch, total / (step + 1)),
                    *(config.batch / step_s, left * step_s / 60),
                )
        yield epoch + 1


def _evaluate(trained: Trained, labelled: LabelledSet, training: Finetuning, detail: dict[str, Any]) -> Score:
    """The network, or its average, on the test split."""
    config = training.config

    def logits() -> Any:
        return encode(
            dataclasses.replace(trained, model=training.network, config=training.shape),
            evaluated_on(labelled),
            world=training.world,
            view=partial(finetuned_view, size=training.shape.image_size),
            batch=config.forward_batch,
            workers=cores_of_this_rank(),
            what="feature",
        )

    if training.average is None:
        found = logits()
    else:
        with training.average.in_place():
            found = logits()
    values_NC = found.values_NW if len(found.labels_N) else torch.zeros(0, len(labelled.classnames))
    all_answers = gathered_answers(answers(values_NC, found.labels_N, found.numbers_N))
    return score_of(all_answers, labelled, protocol="finetune", detail=detail)


def run(trained: Trained, labelled: LabelledSet, config: FinetuneConfig, *, world: World) -> list[Score]:
    """Train and evaluate; every rank must call it, and all get the same. `trained` is left as it was.

    A set without a train or test split is an InputError, one with less than a batch to train on a ConfigError.
    """
    _check(labelled, config, world)
    evaluated_on(labelled)
    pictures, num_classes = trained_on(labelled), len(labelled.classnames)
    steps_per_epoch = len(pictures) // config.batch
    training = Finetuning(trained, num_classes, config, world=world, steps_per_epoch=steps_per_epoch)
    of = {"set": labelled.url, "pictures": len(pictures), "classes": num_classes, "tower": digest(trained.model.visual)}
    size = training.shape.image_size
    trained_with = identity(config, **of) | dataclasses.asdict(training.recipe) | {"image_size": size}
    kept = TrainingState(config.output, f"finetune-{labelled.name}", trained_with)
    state, first = together(kept.load), 0
    if state is not None:
        first = training.go_on(state)
        logger.info("%s: fine-tuning goes on after epoch %d", labelled.name, first)
    workers = max(cores_of_this_rank() - 1, 1) if config.workers is None else config.workers
    with Feed(pictures, num_classes, config, size=size, places=training.places, workers=workers) as feed:
        for epochs in _epochs(labelled.name, training, feed, first):
            save = partial(kept.save, training.state(epochs), last=epochs == training.recipe.epochs)
            together(save if world.main_rank else lambda: None)
    detail = {
        **dataclasses.asdict(training.recipe),
        "batch": config.batch,
        "lr": config.lr,
        "image_size": size,
        "trained on": len(pictures),
    }
    return [_evaluate(trained, labelled, training, detail)]
