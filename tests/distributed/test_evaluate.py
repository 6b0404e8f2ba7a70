"""Two ranks count what one counts, and a set that only one of them cannot read stops neither."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from slip import checkpoint
from slip.checkpoint_writer import CheckpointWriter
from slip.config import ModelConfig, ObjectiveConfig, TrainConfig
from slip.evaluate.datasets import open_labelled_set
from slip.evaluate.trained import load
from slip.evaluate.zeroshot import evaluate_zeroshot
from slip.models.registry import build_model
from slip.world import World
from tests.checkpoint_states import state
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled

ROOT = Path(__file__).resolve().parents[2]
ALONE = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
BROKEN = b"<html>not found</html>"


def saved_run(output: str) -> str:
    """A run with one checkpoint of a tiny model; its URL."""
    shape = ModelConfig(tower="tiny", image_size=16, context_length=8, embed_dim=32)
    config = TrainConfig(model=shape, objective=ObjectiveConfig(name="clip"))
    model = build_model(shape, config.objective, seed=1)
    with CheckpointWriter(output, keep=3) as writer:
        writer.write(state(12, model=model.state_dict(), config=dataclasses.asdict(config)))
    return checkpoint.url_of(output, 12)


def test_two_ranks_evaluate_like_one(tmp_path: Path) -> None:
    url = saved_run(str(tmp_path / "run"))
    pictures = [(picture(colour_of(i), i), i % len(COLOURS)) for i in range(11)]
    sets = {
        "good": write_labelled(tmp_path / "good", pictures),
        # Its rank has read nothing before; the other has a picture of its own, or none.
        "second": write_labelled(tmp_path / "second", [(picture("red", 1), 0), (BROKEN, 1)]),
        "only": write_labelled(tmp_path / "only", [(BROKEN, 1)]),
        "last": write_labelled(tmp_path / "last", pictures[:1]),
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    worker = Path(__file__).with_name("evaluate_worker.py")
    command = [sys.executable, str(worker), str(tmp_path), str(tmp_path / "run"), "--sets", *sets.values()]
    ended = subprocess.run(
        command, env=env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr.decode()
    # Rank 0 alone says that two sets could not be read: a rank that fails may take others with it.
    assert json.loads((tmp_path / "codes.json").read_text()) == [1, 0], (tmp_path / "0.err").read_text()
    assert (tmp_path / "1.out").read_text() == ""
    assert len((tmp_path / "0.out").read_text().splitlines()) == 6

    trained = load(url, None)
    found = json.loads((tmp_path / "run/evaluation/step-00000012-zeroshot.json").read_text())["sets"]
    for name, one in zip(sets, found, strict=True):
        if name in ("good", "last"):
            labelled = open_labelled_set(sets[name])
            whole = evaluate_zeroshot(trained.model, labelled, trained.config, world=ALONE, batch=4, workers=1)
            assert (one["pictures"], one["top1"]) == (whole.num_pictures, whole.num_top1)
        else:
            assert f"{name}/test/0.tar/s000" in one["error"]
