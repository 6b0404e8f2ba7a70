from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from slip.data.patch_choice import PatchChoice, block_patches, choose, num_uniforms, random_patches


def draw(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.Generator(np.random.Philox(seed)).random(count)


@given(seed=integers(0, 10_000), grid=integers(1, 16), share=integers(1, 99))
def test_blocks_hide_exactly_so_many_different_patches(seed: int, grid: int, share: int) -> None:
    count = max(1, grid * grid * share // 100)
    found = block_patches(draw(seed, num_uniforms(grid)), grid, count)
    assert len(found) == count
    assert sorted(set(found.tolist())) == found.tolist()
    assert found[0] >= 0
    assert found[-1] < grid * grid


@given(seed=integers(0, 10_000), num=integers(1, 200), share=integers(1, 100))
def test_random_patches_are_exactly_so_many_different_ones(seed: int, num: int, share: int) -> None:
    count = max(1, num * share // 100)
    found = random_patches(draw(seed, num), count)
    assert len(found) == count
    assert sorted(set(found.tolist())) == found.tolist()
    assert found[-1] < num


def test_every_patch_is_as_likely_as_every_other_one() -> None:
    times = np.zeros(16)
    for seed in range(4000):
        times[random_patches(draw(seed, 16), 8)] += 1
    # Standard deviation of a share is .008.
    assert np.abs(times / 4000 - 0.5).max() < 0.04


def neighbours(hidden: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> float:
    """Share of the pairs of adjacent patches of which both are hidden or none."""
    return float(((hidden[1:] == hidden[:-1]).mean() + (hidden[:, 1:] == hidden[:, :-1]).mean()) / 2)


def test_hidden_patches_lie_in_blocks() -> None:
    shares: list[float] = []
    by_chance: list[float] = []
    for seed in range(200):
        drawn = draw(seed, num_uniforms(14))
        for chosen, into in ((block_patches(drawn, 14, 78), shares), (random_patches(drawn[:196], 78), by_chance)):
            hidden = np.zeros(196, dtype=bool)
            hidden[chosen] = True
            into.append(neighbours(hidden.reshape(14, 14)))
    # By chance .4^2 + .6^2.
    assert np.mean(by_chance) == pytest.approx(0.52, abs=0.02)
    assert np.mean(shares) > 0.8


def test_a_choice_follows_from_seed_sample_epoch_and_view_alone() -> None:
    choice = PatchChoice(grid=14, kept=98, hidden=78)

    def found(view: int = 0, *, hide: bool = False, seed: int = 1, sample_id: int = 2, epoch: int = 3) -> list[int]:
        patches: list[int] = choose(choice, view, hide=hide, seed=seed, sample_id=sample_id, epoch=epoch).tolist()
        return patches

    assert found() == found()
    assert len(found()) == 98
    assert len(found(hide=True)) == 78
    others = [found(1), found(seed=2), found(sample_id=3), found(epoch=4)]
    assert all(other != found() for other in others)
