"""Checkpoints: round trip, refusal, damage, atomicity, the newest kept."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import store
from pipeline.errors import CheckpointError
from slip import checkpoint
from slip.checkpoint import State
from slip.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig

CONFIG = TrainConfig(optim=OptimConfig(global_batch=8))


def state(step: int, config: TrainConfig = CONFIG) -> State:
    return State(
        step=step,
        samples=step * 8,
        model={"weight": torch.arange(6.0).view(2, 3) + step, "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"betas": (0.9, 0.98)}]},
        config=dataclasses.asdict(config),
        data_sha256="a" * 64,
        objective="slip",
        lanes=4,
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    written = state(12)
    url = checkpoint.save(written, str(tmp_path), keep=3)
    assert Path(url).name == "step-00000012.pt"
    assert checkpoint.newest(str(tmp_path)) == url
    found = checkpoint.load(url)
    for name in ("weight", "half"):
        assert torch.equal(found.model[name], written.model[name])
        assert found.model[name].dtype == written.model[name].dtype
    assert found.optimizer == written.optimizer
    for field in ("step", "samples", "config", "data_sha256", "objective", "lanes", "versions"):
        assert getattr(found, field) == getattr(written, field)
    checkpoint.check(found, url, CONFIG, data_sha256="a" * 64, lanes=4)


def test_the_newest_are_kept_and_other_files_left_alone(tmp_path: Path) -> None:
    assert checkpoint.newest(str(tmp_path)) is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-00000099.pt.part").write_bytes(b"half")
    (folder / "best.pt").write_bytes(b"mine")
    for step in (9, 10, 100_000_000, 11):
        checkpoint.save(state(step), str(tmp_path), keep=2)
    names = {"best.pt", "step-00000099.pt.part", "step-00000011.pt", "step-100000000.pt"}
    assert {path.name for path in folder.iterdir()} == names
    assert checkpoint.newest(str(tmp_path)) == str(folder / "step-100000000.pt")


def test_a_write_that_fails_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(state(1), str(tmp_path), keep=2)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="space"):
        checkpoint.save(state(2), str(tmp_path), keep=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001.pt"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    url = checkpoint.save(state(3), str(tmp_path), keep=3)
    data = Path(url).read_bytes()
    other = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, other)
    Path(url).write_bytes(
        {
            "cut": data[: len(data) // 2],
            "garbage": b"not a checkpoint",
            "empty": b"",
            "flipped": data.replace(b"PK", b"KP"),
            "other": other.read_bytes(),
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: not a .*delete it"):
        checkpoint.load(url)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(CONFIG, seed=1), "seed was 0 and is now 1"),
        (replace(CONFIG, optim=OptimConfig(global_batch=16)), "optim.global_batch was 8 and is now 16"),
        (replace(CONFIG, model=ModelConfig(tower="tiny")), "model.tower was 'vitb16' and is now 'tiny'"),
        (replace(CONFIG, objective=ObjectiveConfig(name="clip")), "objective.name was 'slip' and is now 'clip'"),
        (replace(CONFIG, data=DataConfig(shuffle_window=64)), "data.shuffle_window was 128 and is now 64"),
    ],
)
def test_another_runs_checkpoint_is_refused(config: TrainConfig, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"s3://b/x.pt.*{words}.*--output"):
        checkpoint.check(state(3), "s3://b/x.pt", config, data_sha256="a" * 64, lanes=4)


def test_another_data_set_or_order_is_refused() -> None:
    with pytest.raises(CheckpointError, match="sha256 of the manifest"):
        checkpoint.check(state(3), "x.pt", CONFIG, data_sha256="b" * 64, lanes=4)
    with pytest.raises(CheckpointError, match=r"data\.lanes was 4 and is now 2"):
        checkpoint.check(state(3), "x.pt", CONFIG, data_sha256="a" * 64, lanes=2)


def test_what_may_change_is_listed_and_accepted() -> None:
    config = replace(CONFIG, optim=OptimConfig(global_batch=8, lr=1e-4), output="elsewhere", max_steps=7)
    checkpoint.check(state(3), "x.pt", config, data_sha256="a" * 64, lanes=4)
    assert checkpoint.differences(state(3), config) == {
        "optim.lr": (3e-3, 1e-4),
        "output": ("runs/slip", "elsewhere"),
        "max_steps": (None, 7),
    }


def test_any_fsspec_url_will_do() -> None:
    output = "memory://runs/a"
    for step in (1, 2, 3):
        checkpoint.save(state(step), output, keep=2)
    assert store.list_names("memory://runs/a/checkpoints") == ["step-00000002.pt", "step-00000003.pt"]
    newest = checkpoint.newest(output)
    assert newest is not None
    assert checkpoint.load(newest).step == 3
