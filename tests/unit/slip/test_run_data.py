"""The data of a run: one data set, or captioned pictures and others in lock-step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slip.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from slip.objectives.needs import needs_of
from slip.run_data import RunData
from slip.world import World
from tests.tiny_data import write_shards

WORLD = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return write_shards(folder / "captioned", [9, 5, 10]), write_shards(folder / "others", [20, 12])


def config(manifests: tuple[str, str], output: Path, *, masking: bool = False) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(manifest=(manifests[0],), ssl_manifest=(manifests[1],), workers=1, shuffle_window=4),
        model=ModelConfig(
            tower="tiny", image_size=16, context_length=8, ssl_hidden=16, masking="random" if masking else "none"
        ),
        objective=ObjectiveConfig(name="slip", ssl=("simclr", "mim")),
        optim=OptimConfig(global_batch=8),
        output=str(output),
    )


def open_data(of: TrainConfig) -> RunData:
    return RunData(of, needs_of(of.objective, of.model), WORLD)


def test_two_data_sets_go_in_lock_step(manifests: tuple[str, str], tmp_path: Path) -> None:
    setting = config(manifests, tmp_path, masking=True)
    with open_data(setting) as data:
        assert data.num_samples == 24
        batches = list(data.batches(0, 6))
        again = list(data.batches(4, 6))
    alone = replace(setting, data=replace(setting.data, ssl_manifest=()), objective=ObjectiveConfig(name="clip"))
    with open_data(alone) as data:
        captioned = list(data.batches(0, 6))
        assert data.digest == data.source.digest
    for batch, captions in zip(batches, captioned, strict=True):
        assert len(batch.views) == 4
        assert batch.tokens_BL is not None
        assert captions.tokens_BL is not None
        assert torch.equal(batch.tokens_BL, captions.tokens_BL)
        assert torch.equal(batch.views[0], captions.views[0])
        assert torch.equal(batch.sample_ids, captions.sample_ids)
        assert [tuple(keep_BK.shape) for keep_BK in batch.keep] == [(8, 2)] * 3
        assert batch.hidden is not None
        assert batch.hidden.shape == (8, 2)
    for number in (0, 1):
        for one, other in zip(batches[4 + number].views, again[number].views, strict=True):
            assert torch.equal(one, other)


def test_both_data_sets_decide_what_the_run_is(manifests: tuple[str, str], tmp_path: Path) -> None:
    setting = config(manifests, tmp_path)
    swapped = replace(setting, data=replace(setting.data, manifest=manifests[1:], ssl_manifest=manifests[:1]))
    one = replace(setting, data=replace(setting.data, ssl_manifest=()))
    digests = []
    for of in (setting, swapped, one):
        with open_data(of) as data:
            digests.append(data.digest)
    assert len(set(digests)) == 3
