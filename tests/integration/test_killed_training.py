"""A run that is killed again and again ends with the weights of one that was left alone, bit for bit."""

from __future__ import annotations

import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from slip import checkpoint
from tests.integration.test_exact_streaming import newest_step, rank_envs
from tests.integration.warm_ranks import start_warm
from tests.thorough import times
from tests.tiny_data import write_shards

NUM_STEPS = times(90, 60)
KILLS = times(5, 3)


def arguments(manifest: str, output: Path) -> list[str]:
    words = ["demo", "--data.manifest", manifest, "--eval.zeroshot", "None", "--output", str(output)]
    words += ["--model.image-size", "16", "--model.context-length", "8", "--model.ssl-hidden", "16"]
    words += ["--objective.ssl", "simclr", "byol", "mim", "--optim.global-batch", "8", "--optim.micro-batch", "3"]
    words += [
        "--optim.epochs",
        str(NUM_STEPS // 3),
        "--optim.lr",
        "1e-4",
        "--model.drop-path",
        "0.1",
        "--ema-decay",
        "0.9",
    ]
    words += ["--data.workers", "1", "--data.shuffle-window", "4", "--log-every", "1", "--checkpoint-every", "5"]
    return [*words, "--keep-checkpoints", "2", "--precision", "fp32"]


def whole_state(output: Path) -> checkpoint.State:
    url = checkpoint.newest(str(output))
    assert url is not None
    return checkpoint.load(url)


def kill_at_a_random_moment(rank: BaseProcess, output: Path, draw: random.Random, log: Path) -> None:
    """Once it has written a checkpoint more, after up to half a second: in a step, or while a checkpoint is written."""
    before, end = newest_step(output), time.monotonic() + 120
    while newest_step(output) <= before:
        assert rank.is_alive(), log.read_text()[-5000:]
        assert time.monotonic() < end, log.read_text()[-5000:]
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.5))
    rank.kill()
    rank.join()


def test_kills_change_nothing(tmp_path: Path) -> None:
    draw = random.Random(6)
    manifest = write_shards(tmp_path / "shards", [9, 5, 10])
    (env,) = rank_envs(1, dict(os.environ))
    (whole,) = start_warm(arguments(manifest, tmp_path / "whole"), [env], tmp_path / "whole.log")
    whole.join(240)
    assert whole.exitcode == 0, (tmp_path / "whole.log").read_text()[-5000:]

    output, log = tmp_path / "killed", tmp_path / "killed.log"
    for _ in range(KILLS):
        (rank,) = start_warm(arguments(manifest, output), [env], log)
        kill_at_a_random_moment(rank, output, draw, log)
    assert newest_step(output) < NUM_STEPS
    (last,) = start_warm(arguments(manifest, output), [env], log)
    last.join(240)
    assert last.exitcode == 0, log.read_text()[-5000:]
    assert log.read_text().count("resuming from") == KILLS

    one, other = whole_state(tmp_path / "whole"), whole_state(output)
    assert one.step == other.step == NUM_STEPS
    assert [name for name in one.model if not torch.equal(one.model[name], other.model[name])] == []
    assert one.ema is not None
    assert other.ema is not None
    assert [name for name in one.ema if not torch.equal(one.ema[name], other.ema[name])] == []
    # What the killed processes did in vain is accounted for.
    assert other.goodput["lost"] > 0
    assert one.goodput["lost"] == 0
