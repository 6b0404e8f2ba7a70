"""Two and four ranks find what one finds, and a set that only one of them cannot read stops none."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from slip.checkpoint_writer import CheckpointWriter
from slip.config import ModelConfig, ObjectiveConfig, TrainConfig
from slip.evaluate.command import main
from slip.models.registry import build_model
from tests.checkpoint_states import state
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled

ROOT = Path(__file__).resolve().parents[2]
BROKEN = b"<html>not found</html>"


def saved_run(output: str) -> str:
    """A run with one checkpoint of a tiny model, whose weights are large enough that what it sees decides."""
    shape = ModelConfig(tower="tiny", image_size=16, context_length=8, embed_dim=32)
    config = TrainConfig(model=shape, objective=ObjectiveConfig(name="clip"))
    model, draw = build_model(shape, config.objective, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    with CheckpointWriter(output, keep=3) as writer:
        writer.write(state(12, model=model.state_dict(), config=dataclasses.asdict(config)))
    return output


def write_captioned(path: Path, count: int) -> None:
    """Pictures with one to three captions."""
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            said = "\n".join(f"{colour_of(number)} {number} {k}" for k in range(1 + number % 3))
            for extension, data in (("jpg", picture(colour_of(number), number)), ("txt", said.encode())):
                info = tarfile.TarInfo(f"k{number}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_ranks_evaluate_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_run(str(tmp_path / "run"))
    pictures = [(picture(colour_of(i), i), i // 2 % len(COLOURS)) for i in range(23)]
    sets = {
        "good": write_labelled(tmp_path / "good", pictures),
        # One rank meets what is none in its first batch, others have pictures of their own, or none.
        "second": write_labelled(tmp_path / "second", [*pictures[:5], (BROKEN, 1), *pictures[:3]]),
        "only": write_labelled(tmp_path / "only", [(BROKEN, 1)]),
        "last": write_labelled(tmp_path / "last", pictures[:1]),
    }
    bank = write_labelled(tmp_path / "bank", [(picture(colour_of(i), 100 + i), i % len(COLOURS)) for i in range(31)])
    (tmp_path / "good/train").symlink_to(Path(bank) / "test")
    write_captioned(tmp_path / "said.tar", 13)
    (tmp_path / "datasets.toml").write_text('[what_was_said]\nurl = "said.tar"\n')
    arguments = [run, "--protocol", "zeroshot", "knn", "retrieval", "--sets", *sets.values()]
    arguments += ["--captioned", "what_was_said", "--batch", "3", "--workers", "1", "--knn.neighbours", "3"]
    arguments += ["--catalogue", str(tmp_path / "datasets.toml")]
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    worker = Path(__file__).with_name("evaluate_worker.py")
    started = subprocess.Popen(
        [sys.executable, str(worker), str(tmp_path), *arguments],
        env=env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    assert main([*arguments, "--json", str(tmp_path / "alone.json")]) == 1
    _, errors = started.communicate(timeout=240)
    assert started.returncode == 0, errors.decode()

    alone = json.loads((tmp_path / "alone.json").read_text())
    assert [(one["asked"], one["set"], one["pictures"]) for one in alone["scores"]] == [
        ("zeroshot", "good", 23),
        ("zeroshot", "last", 1),
        ("knn", "good", 23),
        *[("retrieval", "what_was_said", 13)] * 6,
    ]
    failed = {(one["asked"], one["set"]): one["error"] for one in alone["not_evaluated"]}
    for name, key in (("second", "s0005"), ("only", "s0000")):
        assert f"{name}/test/0.tar/{key}: " in failed["zeroshot", name]
    for ranks in (4, 2):
        folder = tmp_path / str(ranks)
        # Rank 0 alone says that some sets could not be read: a rank that fails may take others with it.
        codes = json.loads((folder / "codes.json").read_text())
        assert codes == [1, *[0] * (ranks - 1)], (folder / "0.err").read_text()
        assert all((folder / f"{rank}.out").read_text() == "" for rank in range(1, ranks))
        assert (folder / "results.json").read_text() == (tmp_path / "alone.json").read_text()
        assert "what_was_said" in (folder / "0.out").read_text()
