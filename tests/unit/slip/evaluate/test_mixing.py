"""Mixing dealt out to ranks, against timm's own of whole batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers

from slip.evaluate.finetune_config import FinetuneConfig
from slip.evaluate.mixing import groups_of_rank, mix, seed_of
from slip.torchvision_compat import import_torchvision

import_torchvision()
from timm.data.mixup import Mixup  # noqa: E402


def random_state() -> str:
    return str(np.random.get_state(legacy=False))  # noqa: NPY002


@settings(max_examples=50, deadline=None)
@given(half_batch=integers(1, 20), half_group=integers(1, 12), world_size=integers(1, 5))
def test_every_picture_is_one_ranks_and_its_partner_the_same_ranks(
    half_batch: int, half_group: int, world_size: int
) -> None:
    batch, mix_batch = 2 * half_batch, 2 * half_group
    seen: list[int] = []
    for rank in range(world_size):
        groups = groups_of_rank(batch, mix_batch, rank=rank, world_size=world_size)
        assert len(groups) == -(-batch // mix_batch)
        for number, places in enumerate(groups):
            first, last = number * mix_batch, min((number + 1) * mix_batch, batch) - 1
            assert [first + last - place for place in places] == places[::-1]
            seen += places
        sizes = sum(map(len, groups))
        assert abs(sizes - batch / world_size) < 2
    assert sorted(seen) == list(range(batch))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_parts_are_mixed_as_timm_mixes_whole_groups(mixup: float, cutmix: float, world_size: int) -> None:
    config = FinetuneConfig(mixup=mixup, cutmix=cutmix, batch=20, mix_batch=8, seed=5)
    draw = torch.Generator().manual_seed(1)
    views, labels = torch.randn(20, 3, 8, 8, generator=draw), torch.randint(0, 6, (20,), generator=draw)
    whole: Any = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.1, num_classes=6)  # type: ignore[no-untyped-call]
    expected_views, expected_targets = [], []
    for group, first in enumerate((0, 8, 16)):
        np.random.seed(seed_of(5, 2, 3, group))  # noqa: NPY002
        mixed, target = whole(views[first : first + 8].clone(), labels[first : first + 8])
        expected_views.append(mixed)
        expected_targets.append(target)
    before = random_state()
    for rank in range(world_size):
        groups = groups_of_rank(20, 8, rank=rank, world_size=world_size)
        places = [place for group in groups for place in group]
        sizes = [len(group) for group in groups]
        own_views, own_labels = views[places].clone(), labels[places]
        found_views, found_targets = mix(own_views, own_labels, sizes, 6, config, epoch=2, step=3)
        assert torch.equal(found_views, torch.cat(expected_views)[places])
        assert torch.equal(found_targets, torch.cat(expected_targets)[places])
    # Nobody else's draws are touched.
    assert random_state() == before


def test_without_mixing_labels_are_smoothed_only() -> None:
    views = torch.randn(4, 3, 2, 2)
    config = FinetuneConfig(mixup=0.0, cutmix=0.0, smoothing=0.1)
    found, targets = mix(views.clone(), torch.tensor([0, 1, 1, 4]), [4], 5, config, epoch=0, step=0)
    assert torch.equal(found, views)
    assert torch.allclose(targets.sum(dim=1), torch.ones(4))
    assert torch.allclose(targets[3], torch.tensor([0.02, 0.02, 0.02, 0.02, 0.92]))


def test_steps_epochs_and_groups_are_mixed_in_ways_of_their_own() -> None:
    places = [(e, s, g) for e in range(4) for s in range(4) for g in range(4)]
    assert len({seed_of(0, *place) for place in places}) == len(places)
