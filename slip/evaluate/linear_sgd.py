"""The published linear probe: one linear layer trained by SGD on what the frozen tower says of augmented views.

In: a trained network and a labelled set. Out: the trained layer. As in github.com/facebookresearch/SLIP
(main_linear.py): weights N(0, .01), bias 0, cosine to 0 by epochs, the tower in evaluation mode. There each rank pads
its part of an epoch and averages gradients; here a batch is dealt out to the ranks and their features are brought
together, so every rank makes the same step, on each picture of the batch once, however many ranks there are.

Letters: B pictures of a batch on this rank, G on all ranks, W width of a feature, S side of a view.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import DivergedError
from slip.data.augment import normalise
from slip.evaluate.encode import arithmetic
from slip.evaluate.labelled import LabelledSet, Pictures
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.together import gather_uneven, together
from slip.evaluate.trained import Trained
from slip.evaluate.training_state import TrainingState, digest, identity
from slip.evaluate.training_views import epoch_order, linear_train_view, read_picture, trained_on
from slip.world import World

logger = logging.getLogger(__name__)


def learning_rate(config: LinearConfig, epoch: int) -> float:
    """Of one epoch, counted from 0: half a cosine that would reach 0 after the last."""
    peak = config.lr * config.batch / 256
    return peak * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))


def first_head(width: int, num_classes: int, seed: int) -> nn.Linear:
    """The layer before the first step."""
    head = nn.Linear(width, num_classes)
    with torch.no_grad():
        head.weight.normal_(mean=0.0, std=0.01, generator=torch.Generator().manual_seed(seed))
        head.bias.zero_()
    return head


def in_batch_order(rows: Tensor, world_size: int) -> Tensor:
    """Rows in rank order, of which rank r brought numbers r, r + world_size, ... of the batch, in the batch's order."""
    order = torch.cat([torch.arange(len(rows))[rank::world_size] for rank in range(world_size)])
    return rows[order.argsort()]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Feed:
    """Reads, decodes and crops what this rank has of each batch: every world_size-th picture."""

    pictures: Pictures
    num_classes: int
    size: int
    config: LinearConfig
    world: World
    workers: int

    def _one(self, number: int, epoch: int) -> tuple[Tensor, int]:
        picture = read_picture(self.pictures, number, self.num_classes)
        view = linear_train_view(picture, self.size, seed=self.config.seed, epoch=epoch, number=number)
        return torch.from_numpy(view.copy()).permute(2, 0, 1), picture.label

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Views (B, 3, S, S) uint8 and labels (B,), the next batch in the making while the caller works on one."""
        order = epoch_order(len(self.pictures), seed=self.config.seed, epoch=epoch)

        def read(first: int) -> tuple[Tensor, Tensor]:
            own = order[first : first + self.config.batch][self.world.rank :: self.world.world_size].tolist()
            found = list(readers.map(lambda number: self._one(number, epoch), own))
            if not found:
                return torch.zeros(0, 3, self.size, self.size, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
            return torch.stack([view for view, _ in found]), torch.tensor([label for _, label in found])

        firsts = list(range(0, len(order), self.config.batch))
        with ThreadPoolExecutor(self.workers) as readers, ThreadPoolExecutor(1) as maker:
            coming = maker.submit(read, firsts[0])
            for following in firsts[1:]:
                ready = coming.result()
                coming = maker.submit(read, following)
                yield ready
            yield coming.result()


@torch.no_grad()
def _features(trained: Trained, views_B3SS: Tensor, config: LinearConfig, world: World) -> Tensor:
    """What the tower says of this rank's views, (B, W) float32 on the CPU."""
    if len(views_B3SS) == 0:
        return torch.zeros(0, trained.model.visual.embed_dim)
    with arithmetic(trained.precision, world):
        found = [
            trained.model.image_features(normalise(views.to(world.device))).float().cpu()
            for views in torch.split(views_B3SS, config.forward_batch)
        ]
    return torch.cat(found)


def _step(head: nn.Linear, optimizer: torch.optim.SGD, features_GW: Tensor, labels_G: Tensor) -> float:
    """One step on the whole batch; its loss."""
    loss = F.cross_entropy(head(features_GW), labels_G)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _epoch(
    trained: Trained, feed: _Feed, head: nn.Linear, optimizer: torch.optim.SGD, epoch: int, where: str
) -> list[float]:
    """One pass over the train split; the losses of its steps."""
    config, world = feed.config, feed.world
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, epoch)
    batches, losses = feed.batches(epoch), []
    for _ in range(0, len(feed.pictures), config.batch):
        views_B3SS, labels_B = together(partial(next, batches))
        features_GW = gather_uneven(_features(trained, views_B3SS, config, world))
        features_GW, labels_G = (
            in_batch_order(rows, world.world_size).to(world.device) for rows in (features_GW, gather_uneven(labels_B))
        )
        losses.append(_step(head, optimizer, features_GW, labels_G))
        if not math.isfinite(losses[-1]):
            raise DivergedError(f"{where}: epoch {epoch + 1}: the loss is {losses[-1]}; lower --linear.lr")
    return losses


def train_head(
    trained: Trained, labelled: LabelledSet, config: LinearConfig, *, world: World, workers: int
) -> nn.Linear:
    """The trained layer on the world's device, the same on every rank; all ranks must call it."""
    pictures, num_classes = trained_on(labelled), len(labelled.classnames)
    head = first_head(trained.model.visual.embed_dim, num_classes, config.seed).to(world.device)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=config.momentum, weight_decay=config.weight_decay)
    of = {"set": labelled.url, "pictures": len(pictures), "classes": num_classes, "tower": digest(trained.model.visual)}
    kept = TrainingState(config.output, f"linear-{labelled.name}", identity(config, **of))
    found, first = together(kept.load), 0
    if found is not None:
        head.load_state_dict(found["head"])
        optimizer.load_state_dict(found["optimizer"])
        first = int(found["epochs"])
        logger.info("%s: linear probe goes on after epoch %d", labelled.name, first)
    feed = _Feed(
        pictures=pictures,
        num_classes=num_classes,
        size=trained.config.image_size,
        config=config,
        world=world,
        workers=workers,
    )
    was_training, began_s = trained.model.training, time.perf_counter()
    trained.model.eval()
    try:
        for epoch in range(first, config.epochs):
            losses = _epoch(trained, feed, head, optimizer, epoch, labelled.url)
            epoch_s = (time.perf_counter() - began_s) / (epoch + 1 - first)
            logger.info(
                "%s: linear probe: epoch %d of %d, loss %.4f, learning rate %.2g, %.0f pictures/s, %.0f min to go",
                *(labelled.name, epoch + 1, config.epochs, sum(losses) / len(losses), learning_rate(config, epoch)),
                *(len(pictures) / epoch_s, epoch_s * (config.epochs - epoch - 1) / 60),
            )
            state = {"epochs": epoch + 1, "head": head.state_dict(), "optimizer": optimizer.state_dict()}
            save = partial(kept.save, state, last=epoch + 1 == config.epochs)
            together(save if world.main_rank else lambda: None)
    finally:
        trained.model.train(was_training)
    return head
