"""Mixup and cutmix over ranks: which pictures of a batch are mixed, who has them, and timm's mixing of them.

timm's Mixup mixes a tensor with itself in reverse. So the two of a pair must be one rank's: pairs are dealt out, and a
rank lays its pictures so that its own reverse is the batch's. Ratios are drawn by seed, epoch and step: however many
ranks there are, the same pictures are mixed in the same way.

Letters: B pictures of this rank, S side of a view, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slip.data.keyed import Purpose, raw_bits
from slip.evaluate.finetune_config import FinetuneConfig
from slip.torchvision_compat import import_torchvision

# timm imports torchvision.
import_torchvision()
from timm.data.mixup import Mixup, mixup_target  # noqa: E402


def seed_of(seed: int, epoch: int, step: int, part: int) -> int:
    """A seed of 32 bits for what is drawn in one step."""
    (bits,) = raw_bits(1, seed=seed, purpose=Purpose.PATCHES, where=(epoch, step, part))
    return int(bits) & 0xFFFFFFFF


def groups_of_rank(batch: int, mix_batch: int, *, rank: int, world_size: int) -> list[list[int]]:
    """Places in the batch of the pictures one rank has, by group of `mix_batch` that is mixed with one ratio.

    Picture i of a group of n is mixed with n - 1 - i: (8, 4, rank 0 of 2) -> [[0, 3], [4, 7]]; in every list place k is
    mixed with the place k from its end. Groups the rank has nothing of are empty.
    """
    groups, pair = [], 0
    for first in range(0, batch, mix_batch):
        size = min(mix_batch, batch - first)
        own = [i for i in range(size // 2) if (pair + i) % world_size == rank]
        groups.append([first + i for i in own] + [first + size - 1 - i for i in reversed(own)])
        pair += size // 2
    return groups


def mix(
    views_B3SS: Tensor,
    labels_B: Tensor,
    sizes: Sequence[int],
    num_classes: int,
    config: FinetuneConfig,
    *,
    epoch: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Mixed views (in place) and their smoothed labels (B, C); the same share of each group's pictures on all ranks.

    Args:
        sizes: how many of the B pictures are of each group, 0 for those the rank has nothing of.
    """
    if config.mixup == 0 and config.cutmix == 0:
        return views_B3SS, mixup_target(labels_B, num_classes, 1.0, config.smoothing)  # type: ignore[no-untyped-call]
    mixing = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        label_smoothing=config.smoothing,
        num_classes=num_classes,
    )
    before, targets, first = np.random.get_state(), [], 0  # noqa: NPY002 (what timm draws from)
    try:
        for group, size in enumerate(sizes):
            if size:
                np.random.seed(seed_of(config.seed, epoch, step, group))  # noqa: NPY002
                views, target = mixing(views_B3SS[first : first + size], labels_B[first : first + size])
                views_B3SS[first : first + size] = views
                targets.append(target)
                first += size
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return views_B3SS, torch.cat(targets)
