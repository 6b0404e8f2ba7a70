"""The same run on one and on two processes: same losses, same weights, and a checkpoint of one goes on in the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slip import checkpoint
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled, write_shards

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    manifest = write_shards(folder / "shards", [9, 5, 10])
    pictures = [(picture(colour_of(i), 1000 + i), i % len(COLOURS)) for i in range(11)]
    flags = ["--data.manifest", manifest, "--eval.zeroshot", write_labelled(folder / "labelled", pictures)]
    flags += ["--model.image-size", "16", "--model.context-length", "8", "--model.ssl-hidden", "16"]
    flags += ["--optim.global-batch", "8", "--optim.epochs", "2", "--optim.warmup-epochs", "1", "--log-every", "1"]
    # Batch norm of few, at first nearly equal, features multiplies rounding (the gradient norm is 200), and AdamW
    # moves what has no gradient but rounding by lr. With the lr of the demonstration losses part by 5e-5 in 6 steps.
    flags += ["--optim.lr", "1e-4", "--optim.eps", "1e-4"]
    flags += ["--data.workers", "1", "--data.shuffle-window", "4", "--eval.every-epochs", "1"]
    return [*flags, "--precision", "fp32"]


def run(num_processes: int, output: Path, flags: list[str]) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [sys.executable, *(launcher if num_processes > 1 else []), "-m", "slip.train", "demo", *flags]
    command += ["--output", str(output)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def records(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> dict[float, float]:
    found = {record["step"]: record["loss"] for record in records(output) if "loss" in record}
    assert len(found) == sum("loss" in record for record in records(output))
    return found


def zeroshot(output: Path) -> list[tuple[float, float]]:
    return [(record["step"], record["zeroshot/top1"]) for record in records(output) if "zeroshot/top1" in record]


def test_two_processes_train_like_one(tmp_path: Path, flags: list[str]) -> None:
    run(1, tmp_path / "one", flags)
    log = run(2, tmp_path / "two", flags)
    assert "2 ranks on cpu" in log
    assert "rank 1" not in log
    assert sorted(losses(tmp_path / "one")) == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert [step for step, _ in zeroshot(tmp_path / "two")] == [3, 6]

    # Three steps on two processes, the rest on one: checkpoints know nothing of the world size.
    run(2, tmp_path / "mixed", [*flags, "--max-steps", "3"])
    run(1, tmp_path / "mixed", flags)
    assert losses(tmp_path / "mixed") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    states = [checkpoint.load(str(tmp_path / name / "checkpoints/step-00000006.pt")) for name in ("one", "mixed")]
    for name, tensor in states[0].model.items():
        assert torch.allclose(tensor.double(), states[1].model[name].double(), atol=1e-4), name


def test_towers_in_shards_train_like_whole_ones(tmp_path: Path, flags: list[str]) -> None:
    flags = [*flags, "--objective.ssl", "simclr", "byol", "--objective.clip-view", "shared", "--ema-decay", "0.9"]
    flags += ["--model.masking", "attentive"]
    run(1, tmp_path / "whole", flags)
    # Three steps in shards and parts, the rest whole: checkpoints hold whole weights.
    run(2, tmp_path / "shards", [*flags, "--parallel", "fsdp", "--optim.micro-batch", "2", "--max-steps", "3"])
    run(1, tmp_path / "shards", flags)
    assert losses(tmp_path / "shards") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert zeroshot(tmp_path / "shards") == zeroshot(tmp_path / "whole")
    states = [checkpoint.load(str(tmp_path / name / "checkpoints/step-00000006.pt")) for name in ("whole", "shards")]
    for name, tensor in states[0].model.items():
        assert torch.allclose(tensor.double(), states[1].model[name].double(), atol=1e-4), name
    assert states[0].ema is not None
    assert states[1].ema is not None
    for name, tensor in states[0].ema.items():
        assert torch.allclose(tensor, states[1].ema[name], atol=1e-4), name
