"""Whole runs on tiny shards: stopped and resumed, stopped by a signal, diverged."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError, DivergedError, ShardError
from slip import checkpoint
from slip.cli import main as slip_main
from slip.command import AGAIN
from slip.config import DataConfig, EvalConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from slip.ledger import Ledger
from slip.loop import train
from slip.objectives.embeddings import Embeddings
from slip.objectives.slip import objective_terms
from slip.optim import set_lr
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled, write_shards

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", [9, 5, 10])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(manifest: str, output: Path) -> TrainConfig:
    """Six steps in two epochs of three."""
    return TrainConfig(
        data=DataConfig(manifest=(manifest,), workers=1, shuffle_window=4),
        model=ModelConfig(tower="tiny", image_size=16, context_length=8, ssl_hidden=16, ssl_dim=8, embed_dim=16),
        objective=ObjectiveConfig(name="slip"),
        optim=OptimConfig(global_batch=8, epochs=2, lr=1e-3, warmup_epochs=1),
        output=str(output),
        precision="fp32",
        log_every=1,
        checkpoint_every=100,
    )


def weights(output: Path) -> dict[str, torch.Tensor]:
    url = checkpoint.newest(str(output))
    assert url is not None
    return checkpoint.load(url).model


def records(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def curve(output: Path) -> list[tuple[float, float]]:
    return [(record["step"], record["loss"]) for record in records(output) if "loss" in record]


def assert_equal_bit_for_bit(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("objective", ["slip", "clip", "simclr"])
def test_a_stopped_and_resumed_run_is_the_undisturbed_one(manifest: str, tmp_path: Path, objective: str) -> None:
    whole = replace(config(manifest, tmp_path / "whole"), objective=ObjectiveConfig(name=objective))  # type: ignore[arg-type]
    result = train(whole)
    assert (result.steps, result.samples, result.zeroshot) == (6, 48, None)
    parts = replace(whole, output=str(tmp_path / "parts"))
    assert train(replace(parts, max_steps=3)).steps == 3
    assert train(parts).steps == 6
    assert_equal_bit_for_bit(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert [step for step, _ in curve(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    first = records(tmp_path / "whole")[0]
    named = {"slip": {"loss/clip", "loss/simclr"}, "clip": {"loss/clip"}, "simclr": {"loss/simclr"}}[objective]
    assert {name for name in first if name.startswith("loss/")} == named
    assert {"lr", "epoch", "grad_norm", "memory/peak_bytes"} <= first.keys()
    assert ("logit_scale" in first) == (objective != "simclr")


def test_the_seed_alone_decides(manifest: str, tmp_path: Path) -> None:
    short = replace(config(manifest, tmp_path / "a"), max_steps=2)
    train(short)
    torch.manual_seed(99)
    train(replace(short, output=str(tmp_path / "b"), data=replace(short.data, workers=3, prefetch_batches=1)))
    train(replace(short, output=str(tmp_path / "c"), seed=1))
    assert_equal_bit_for_bit(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert curve(tmp_path / "a") != curve(tmp_path / "c")


def test_the_ledger_of_a_stopped_and_resumed_run_proves_its_epochs(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = replace(config(manifest, tmp_path), ledger=True, checkpoint_every=2)
    train(replace(whole, max_steps=3))
    # A later process got further, but was killed before it wrote the checkpoint: what it noted does not count.
    lost = Ledger(str(tmp_path), rank=0, world_size=1, digest="0" * 64, seed=0, global_batch=8)
    ids = np.arange(8, dtype=np.int64)
    lost.add(3, ids, ids, np.zeros(8, dtype=np.int64))
    lost.flush()
    assert train(whole).steps == 6
    assert slip_main(["ledger", "verify", str(tmp_path)]) == 0
    assert "proved: every sample exactly once in 2 finished epochs" in capsys.readouterr().out


def test_ranks_that_found_different_data_stop(manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slip.run_data.sum_over_ranks", lambda counts: [counts[0] + 1])
    with pytest.raises(ConfigError, match=r"rank 0 found the data with sha256 .* other ranks found others"):
        train(config(manifest, tmp_path))


def test_damage_on_other_ranks_counts(manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slip.loop.sum_over_ranks", lambda counts: [counts[0], 2] if len(counts) == 2 else counts)
    assert train(
        replace(config(manifest, tmp_path), data=replace(config(manifest, tmp_path).data, max_damaged=2))
    ).steps
    with pytest.raises(ShardError, match=r"2 damaged samples on all ranks, --data\.max-damaged allows 0"):
        train(config(manifest, tmp_path / "strict"))


def test_a_finished_run_does_nothing(manifest: str, tmp_path: Path) -> None:
    short = replace(config(manifest, tmp_path), max_steps=2)
    train(short)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoints/*")}
    assert len(before) == 1
    assert train(short).steps == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoints/*")} == before
    assert len(records(tmp_path)) == 2


def test_what_a_killed_process_recorded_after_its_checkpoint_is_cut(manifest: str, tmp_path: Path) -> None:
    whole = config(manifest, tmp_path)
    train(replace(whole, max_steps=2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 77}\n{"step": 4, "lo')
    train(replace(whole, max_steps=4))
    assert [step for step, _ in curve(tmp_path)] == [1, 2, 3, 4]
    assert 77 not in dict(curve(tmp_path)).values()


def test_another_runs_output_is_refused(manifest: str, tmp_path: Path) -> None:
    short = replace(config(manifest, tmp_path), max_steps=1)
    train(short)
    with pytest.raises(CheckpointError, match="seed was 0 and is now 5"):
        train(replace(short, seed=5))


def test_zero_shot_runs_at_epoch_ends(manifest: str, tmp_path: Path) -> None:
    pictures = [(picture(colour_of(i), 1000 + i), i % len(COLOURS)) for i in range(12)]
    setting = replace(
        config(manifest, tmp_path / "run"),
        optim=OptimConfig(global_batch=8, epochs=2.6, warmup_epochs=1),
        eval=EvalConfig(zeroshot=write_labelled(tmp_path / "labelled", pictures), every_epochs=2, batch=5),
    )
    result = train(setting)
    found = [(record["step"], record["zeroshot/top1"]) for record in records(tmp_path / "run") if "loss" not in record]
    assert [step for step, _ in found] == [6, 8]
    assert result.zeroshot == found[-1][1]
    # A finished run is evaluated once more, from its checkpoint, and says the same.
    assert train(setting).zeroshot == result.zeroshot
    assert sum("loss" not in record for record in records(tmp_path / "run")) == 2


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the fourth image embedding of some steps (counted by calls, from 0) not finite."""
    calls = iter(range(1000))

    def terms(found: Embeddings, config: ObjectiveConfig) -> dict[str, torch.Tensor]:
        if next(calls) in steps:
            found.image[0].data[3] = float("nan")
        return objective_terms(found, config)

    monkeypatch.setattr("slip.exact_batch.objective_terms", terms)


def test_a_loss_that_is_not_finite_stops_the_run(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = replace(config(manifest, tmp_path), max_skipped=0)
    train(replace(setting, max_steps=2))
    poison(monkeypatch, {0})
    with pytest.raises(DivergedError, match=r"step 3: .*samples (\d+); that makes 1 such steps.*step-00000002\.pt"):
        train(setting)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.pt"]


def test_steps_that_are_not_finite_are_left_out_up_to_a_limit(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setting = replace(config(manifest, tmp_path), max_skipped=2, checkpoint_every=1, keep_checkpoints=9)
    poison(monkeypatch, {1, 3})
    with caplog.at_level(logging.WARNING):
        assert train(replace(setting, max_steps=5)).steps == 5
    states = [checkpoint.load(str(tmp_path / f"checkpoints/step-{step:08d}.pt")) for step in range(1, 6)]
    # Weights, optimizer and batch-norm statistics are as before the step; samples count as consumed.
    assert_equal_bit_for_bit(states[0].model, states[1].model)
    assert_equal_bit_for_bit(states[2].model, states[3].model)
    assert not all(torch.equal(states[1].model[name], states[2].model[name]) for name in states[1].model)
    assert [state.skipped for state in states] == [0, 1, 1, 2, 2]
    assert [state.samples for state in states] == [8, 16, 24, 32, 40]
    assert [record["skipped"] for record in records(tmp_path)] == [0, 1, 1, 2, 2]
    warned = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(warned) == 2
    assert "step 2: the loss or its gradient is not finite" in warned[0]
    # A resumed run has not forgotten them.
    poison(monkeypatch, {0})
    with pytest.raises(DivergedError, match="that makes 3 such steps, --max-skipped allows 2"):
        train(setting)


def test_bf16_trains_too(manifest: str, tmp_path: Path) -> None:
    # From the third step on so small a model at so high a rate goes ways of its own.
    setting = replace(config(manifest, tmp_path / "bf16"), max_steps=2, precision="bf16")
    train(setting)
    train(replace(setting, precision="fp32", output=str(tmp_path / "fp32")))
    for (_, low), (_, full) in zip(curve(tmp_path / "bf16"), curve(tmp_path / "fp32"), strict=True):
        assert low == pytest.approx(full, rel=0.02)
        assert low != full
    assert {tensor.dtype for tensor in weights(tmp_path / "bf16").values()} == {torch.float32, torch.int64}


def test_a_batch_larger_than_the_data_set_is_refused(manifest: str, tmp_path: Path) -> None:
    setting = config(manifest, tmp_path)
    with pytest.raises(ConfigError, match="which has 24"):
        train(replace(setting, optim=replace(setting.optim, global_batch=64)))


def command_line(manifest: str, output: Path) -> list[str]:
    flags = ["--data.manifest", manifest, "--output", str(output), "--eval.zeroshot", "None", "--data.workers", "1"]
    flags += ["--model.image-size", "16", "--model.context-length", "8", "--model.ssl-hidden", "16"]
    return [*flags, "--optim.global-batch", "8", "--log-every", "1"]


def test_a_signal_stops_cleanly(manifest: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slip.train", *command_line(manifest, tmp_path), "--optim.epochs", "100000"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    running.send_signal(signal.SIGUSR2)
    _, log = running.communicate(timeout=60)
    assert running.returncode == AGAIN, log
    assert "stopped by SIGUSR2" in log
    assert "run the same command again to resume" in log
    url = checkpoint.newest(str(tmp_path))
    assert url is not None
    assert [step for step, _ in curve(tmp_path)] == list(range(1, checkpoint.load(url).step + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_during_training_ends_it_after_the_step(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = config(manifest, tmp_path)

    def signalled(optimizer: torch.optim.Optimizer, lr: float) -> None:
        set_lr(optimizer, lr)
        signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr("slip.optimizer_step.set_lr", signalled)
    assert train(whole).steps == 1
    assert train(whole).steps == 2
    monkeypatch.undo()
    assert train(whole).steps == 6
    assert [step for step, _ in curve(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert signal.getsignal(number) is before
