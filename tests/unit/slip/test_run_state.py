"""Everything that changes in a run survives a checkpoint: optimizer, average, momentum tower, counters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError
from slip import checkpoint
from slip.config import DataConfig, EvalConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from slip.loop import train
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled, write_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", [9, 5, 10])


def config(manifest: str, output: Path) -> TrainConfig:
    """Six steps of everything there is."""
    return TrainConfig(
        data=DataConfig(manifest=(manifest,), ssl_manifest=(), workers=1, shuffle_window=4),
        model=ModelConfig(
            tower="tiny",
            image_size=16,
            context_length=8,
            ssl_hidden=16,
            ssl_dim=8,
            embed_dim=16,
            masking="attentive",
            drop_path=0.2,
        ),
        objective=ObjectiveConfig(name="slip", ssl=("simclr", "mocov3", "byol", "mim"), clip_view="shared"),
        optim=OptimConfig(global_batch=8, micro_batch=3, epochs=2, lr=1e-3, warmup_epochs=1),
        output=str(output),
        precision="fp32",
        ema_decay=0.9,
        log_every=1,
        checkpoint_every=100,
    )


def newest(output: Path) -> checkpoint.State:
    url = checkpoint.newest(str(output))
    assert url is not None
    return checkpoint.load(url)


def test_a_run_of_everything_goes_on_as_if_it_had_not_stopped(manifest: str, tmp_path: Path) -> None:
    whole, parts = config(manifest, tmp_path / "whole"), config(manifest, tmp_path / "parts")
    train(whole)
    for steps in (1, 4, 6):
        train(replace(parts, max_steps=steps))
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert one.model.keys() == other.model.keys()
    assert any(name.startswith("momentum.visual.") for name in one.model)
    assert [name for name in one.model if not torch.equal(one.model[name], other.model[name])] == []
    assert one.ema is not None
    assert other.ema is not None
    assert [name for name in one.ema if not torch.equal(one.ema[name], other.ema[name])] == []
    moments, others = one.optimizer["state"], other.optimizer["state"]
    assert [n for n in moments if not torch.equal(moments[n]["exp_avg_sq"], others[n]["exp_avg_sq"])] == []
    assert (other.step, other.samples, other.skipped, other.gather) == (6, 48, 0, "exact")


def test_the_average_is_what_is_evaluated_and_the_best_is_kept(manifest: str, tmp_path: Path) -> None:
    pictures = [(picture(colour_of(i), 1000 + i), i % len(COLOURS)) for i in range(12)]
    labelled = write_labelled(tmp_path / "labelled", pictures)
    setting = replace(
        config(manifest, tmp_path / "run"), eval=EvalConfig(zeroshot=labelled), checkpoint_every=1, keep_checkpoints=1
    )
    train(setting)
    best = checkpoint.best(str(tmp_path / "run"))
    assert best is not None
    kept = {path.name for path in (tmp_path / "run/checkpoints").glob("*.pt")}
    assert kept == {best[0].rpartition("/")[2], "step-00000006.pt"}


def test_another_objective_is_refused_and_another_way_to_compute_it_is_not(manifest: str, tmp_path: Path) -> None:
    setting = config(manifest, tmp_path)
    train(replace(setting, max_steps=1))
    for objective in (replace(setting.objective, gather="paper"), replace(setting.objective, ssl=("simclr",))):
        with pytest.raises(CheckpointError, match=r"is from another run: objective\."):
            train(replace(setting, objective=objective))
    with pytest.raises(CheckpointError, match=r"ema_decay was 0\.9 and is now 0\.5"):
        train(replace(setting, ema_decay=0.5))
    optim = replace(setting.optim, micro_batch=0)
    assert train(replace(setting, optim=optim, model=replace(setting.model, activation_checkpointing=True))).steps == 6


def test_settings_of_the_optimizer_may_change_while_moments_stay(manifest: str, tmp_path: Path) -> None:
    setting = config(manifest, tmp_path)
    train(replace(setting, max_steps=2))
    changed = replace(setting, optim=replace(setting.optim, weight_decay=0.7, betas=(0.8, 0.9)), max_steps=3)
    train(changed)
    groups = newest(tmp_path).optimizer["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.7, 0.0}
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.9)}
    assert newest(tmp_path).optimizer["state"]["visual.pos_embed"]["step"] == 3
