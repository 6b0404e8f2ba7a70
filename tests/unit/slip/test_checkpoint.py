"""Checkpoints: what is found, read and refused, the best one, random states, versions."""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import store
from pipeline.errors import CheckpointError, StoreError
from slip import checkpoint
from slip.checkpoint import State
from slip.checkpoint_writer import CheckpointWriter
from slip.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig

CONFIG = TrainConfig(optim=OptimConfig(global_batch=8))


def state(step: int, config: TrainConfig = CONFIG) -> State:
    return State(
        step=step,
        samples=step * 8,
        model={"weight": torch.arange(6.0).view(2, 3) + step, "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"state": {"weight": {"step": torch.tensor(float(step))}}, "param_groups": [{"betas": (0.9, 0.98)}]},
        ema={"weight": torch.full((2, 3), step / 2)},
        config=dataclasses.asdict(config),
        data_sha256="a" * 64,
        objective="slip",
        gather="exact",
        lanes=4,
        skipped=1,
        random=checkpoint.random_states(),
        goodput={"step": 12.5, "data": 0.25},
    )


def save(written: State, output: str, *, keep: int = 3) -> str:
    with CheckpointWriter(output, keep=keep) as writer:
        writer.write(written)
    return checkpoint.url_of(output, written.step)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    written = state(12)
    url = save(written, str(tmp_path), keep=3)
    assert Path(url).name == "step-00000012.pt"
    assert checkpoint.newest(str(tmp_path)) == url
    found = checkpoint.load(url)
    for name in ("weight", "half"):
        assert torch.equal(found.model[name], written.model[name])
        assert found.model[name].dtype == written.model[name].dtype
    assert found.optimizer == written.optimizer
    assert found.ema is not None
    assert torch.equal(found.ema["weight"], torch.full((2, 3), 6.0))
    for field in dataclasses.fields(State):
        if field.name not in ("model", "ema", "random"):
            assert getattr(found, field.name) == getattr(written, field.name)
    assert found.format == 3
    checkpoint.check(found, url, CONFIG, data_sha256="a" * 64, lanes=4)


def test_names_that_only_look_like_checkpoints_are_not_found(tmp_path: Path) -> None:
    assert checkpoint.newest(str(tmp_path)) is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-00000099.pt.part-host-12", "step-00000099.pt.part", "step-0000099.pt", "best.pt"):
        (folder / name).write_bytes(b"half")
    assert checkpoint.newest(str(tmp_path)) is None
    for step in (9, 100_000_000, 11):
        (folder / checkpoint.name_of(step)).write_bytes(b"whole")
    assert checkpoint.steps_of(str(tmp_path)) == [9, 11, 100_000_000]
    assert checkpoint.newest(str(tmp_path)) == str(folder / "step-100000000.pt")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    url = save(state(3), str(tmp_path), keep=3)
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


@pytest.mark.parametrize("base", ["memory://damaged", "LOCAL"])
def test_a_missing_file_is_not_called_damaged(tmp_path: Path, base: str) -> None:
    url = store.join(base.replace("LOCAL", str(tmp_path)), "step-00000003.pt")
    with pytest.raises(StoreError, match=r"step-00000003\.pt"):
        checkpoint.load(url)


def test_a_disk_that_fails_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    url = save(state(3), str(tmp_path))
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(StoreError, match=r"step-00000003\.pt: cannot read.*Input/output"):
        checkpoint.load(url)


@pytest.mark.parametrize(("number", "words"), [(2, "earlier version.*finish the run.*--output"), (4, "later.*update")])
def test_another_format_is_refused(tmp_path: Path, number: int, words: str) -> None:
    path = tmp_path / "step-00000003.pt"
    torch.save({"step": 3, "model": {}, "format": number}, path)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(str(path))


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
        (replace(CONFIG, objective=ObjectiveConfig(gather="paper")), "objective.gather was 'exact' and is now 'paper'"),
        (replace(CONFIG, model=ModelConfig(drop_path=0.1)), "model.drop_path was 0.0 and is now 0.1"),
        (replace(CONFIG, ema_decay=0.9999), "ema_decay was 0.0 and is now 0.9999"),
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


def test_every_setting_that_differs_is_named() -> None:
    config = replace(CONFIG, seed=1, model=ModelConfig(tower="tiny", compile="off"))
    with pytest.raises(CheckpointError) as refused:
        checkpoint.check(state(3), "x.pt", config, data_sha256="b" * 64, lanes=4)
    for words in ("seed was 0", "model.tower was 'vitb16'", f"was '{'a' * 64}' and is now '{'b' * 64}'"):
        assert words in str(refused.value)
    assert "compile" not in str(refused.value)


def test_how_it_is_computed_may_change() -> None:
    config = replace(
        CONFIG,
        model=ModelConfig(compile="off", activation_checkpointing=True),
        optim=OptimConfig(global_batch=8, micro_batch=2),
        parallel="fsdp",
        precision="bf16",
    )
    checkpoint.check(state(3), "x.pt", config, data_sha256="a" * 64, lanes=4)


def test_what_may_change_is_listed_and_accepted() -> None:
    config = replace(CONFIG, optim=OptimConfig(global_batch=8, lr=1e-4), output="elsewhere", max_steps=7)
    checkpoint.check(state(3), "x.pt", config, data_sha256="a" * 64, lanes=4)
    assert checkpoint.differences(state(3), config) == {
        "optim.lr": (3e-3, 1e-4),
        "output": ("runs/slip", "elsewhere"),
        "max_steps": (None, 7),
    }


@pytest.mark.parametrize("base", ["memory://best-of", "LOCAL"])
def test_the_best_one(tmp_path: Path, base: str) -> None:
    output = store.join(base.replace("LOCAL", str(tmp_path)), "run")
    assert checkpoint.best(output) is None
    url = save(state(7), output)
    best = store.join(output, "checkpoints", "best.json")
    store.write_bytes(best, b'{"step": 7, "metric": "zeroshot/top1", "value": 0.25}')
    assert checkpoint.best(output) == (url, 0.25)
    store.delete(url)
    assert checkpoint.best(output) is None
    store.write_bytes(best, b'{"step"')
    with pytest.raises(CheckpointError, match=r"best\.json: holds .*delete it"):
        checkpoint.best(output)


def draws() -> tuple[Any, ...]:
    return (torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist())  # noqa: NPY002


def test_random_states_come_back(tmp_path: Path) -> None:
    random.gauss(0, 1)
    np.random.standard_normal(1)  # noqa: NPY002
    url = save(state(1), str(tmp_path))
    expected = draws()
    draws()
    checkpoint.restore_random_states(checkpoint.load(url).random)
    assert draws() == expected


def test_versions_name_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checkpoint.versions()
    assert found["torch"] == torch.__version__
    assert {"python", "torch", "timm", "numpy", "slip"} <= set(found)
    found["torch"] = "mine"
    assert checkpoint.versions()["torch"] != "mine"

    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(checkpoint, "commit_of", lambda _: None)
    checkpoint._versions.cache_clear()
    assert set(checkpoint.versions()) == {"python"}
    checkpoint._versions.cache_clear()


def test_the_commit_is_the_one_git_names(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        # A hook that runs the tests sets GIT_DIR.
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command, cwd = ["git", *who, *words], tmp_path / "a"
        return subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout

    (tmp_path / "a").mkdir()
    assert checkpoint.commit_of(tmp_path / "a") is None
    git("init", "-b", "main")
    assert checkpoint.commit_of(tmp_path / "a") is None
    git("commit", "--allow-empty", "-m", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert checkpoint.commit_of(tmp_path / "a") == commit
    git("worktree", "add", "../b")
    git("pack-refs", "--all")
    assert checkpoint.commit_of(tmp_path / "a") == checkpoint.commit_of(tmp_path / "b") == commit
    git("checkout", "--detach")
    assert checkpoint.commit_of(tmp_path / "a") == commit
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "COMMIT").write_text(f"{commit} with changes\n")
    assert checkpoint.commit_of(tmp_path / "frozen") == commit
