"""TensorBoard and Weights & Biases get the same; pictures of views show the pixels the towers saw."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import store
from pipeline.errors import ConfigError
from slip.boards import TensorBoard, WeightsAndBiases, denormalised, view_grid, wandb_module
from slip.config import TrainConfig
from slip.data.augment import normalise
from slip.data.decode import Pixels
from slip.metrics import Metrics


class FakeWandb(ModuleType):
    """What of wandb is used, noting all calls."""

    class Error(Exception):
        """As in wandb."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[object, ...]] = []
        self.refuses = ""

    def init(self, **settings: object) -> SimpleNamespace:
        if self.refuses:
            raise self.Error(self.refuses)
        self.calls.append(("init", settings))
        return SimpleNamespace(
            define_metric=lambda name, step_metric: self.calls.append(("define", name, step_metric)),
            log=lambda values: self.calls.append(("log", values)),
            finish=lambda: self.calls.append(("finish",)),
        )

    def Image(self, pixels: Pixels) -> tuple[int, ...]:  # noqa: N802
        return pixels.shape


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return module


def grey(height: int = 4, width: int = 6) -> Pixels:
    return np.full((height, width, 3), 100, dtype=np.uint8)


@pytest.mark.parametrize("where", ["local", "memory"])
def test_wandb_goes_on_with_its_run(tmp_path: Path, fake: FakeWandb, where: str) -> None:
    output = str(tmp_path / "run") if where == "local" else f"memory://{tmp_path.name}/run"
    config = TrainConfig(output=output, wandb="boats")
    for resume_step in (0, 5):
        metrics = Metrics(config, resume_step=resume_step, enabled=True)
        metrics.write({"step": resume_step + 1, "loss": 2.0, "lr": None})
        metrics.picture("views", grey(), resume_step + 1)
        metrics.close()
    known = json.loads(store.read_bytes(f"{output}/wandb.json"))
    assert known["project"] == "boats"
    runs = [fake.calls[: len(fake.calls) // 2], fake.calls[len(fake.calls) // 2 :]]
    for step, ((_, settings), *others) in zip((1, 6), runs, strict=True):
        assert isinstance(settings, dict)
        assert (settings["project"], settings["id"], settings["resume"]) == ("boats", known["id"], "allow")
        assert settings["dir"] == (output if where == "local" else None)
        assert settings["config"]["output"] == output
        assert others == [
            ("define", "*", "step"),
            ("log", {"step": step, "loss": 2.0}),
            ("log", {"step": step, "views": (4, 6, 3)}),
            ("finish",),
        ]


def test_another_project_gets_another_run(tmp_path: Path, fake: FakeWandb) -> None:
    ids = set()
    for project in ("boats", "planes"):
        WeightsAndBiases(project, str(tmp_path), config={})
        ids.add(json.loads((tmp_path / "wandb.json").read_bytes())["id"])
    assert len(ids) == 2


def test_wandb_is_left_alone_without_a_project(tmp_path: Path, fake: FakeWandb) -> None:
    Metrics(TrainConfig(output=str(tmp_path)), resume_step=0, enabled=True).close()
    assert fake.calls == []
    assert not (tmp_path / "wandb.json").exists()


def test_what_wandb_refuses_is_a_wrong_setting(tmp_path: Path, fake: FakeWandb) -> None:
    fake.refuses = "No API key configured."
    with pytest.raises(ConfigError, match=r"--wandb boats: No API key configured\.; log in with `wandb login`"):
        WeightsAndBiases("boats", str(tmp_path), config={})


@pytest.mark.parametrize("found", [None, ModuleType("wandb")], ids=["nothing", "a folder of that name"])
def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, found: ModuleType | None) -> None:
    # None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "wandb", found)
    with pytest.raises(ConfigError, match=r"--wandb needs the package wandb.*pip install wandb"):
        wandb_module()


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    # Nothing of the user's is read or written.
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    output = tmp_path / "run"
    metrics = Metrics(TrainConfig(output=str(output), wandb="boats"), resume_step=5, enabled=True)
    metrics.write({"step": 6, "loss": 2.0})
    metrics.picture("views/step", grey(), 6)
    metrics.close()
    wandb.teardown()
    run_id = json.loads((output / "wandb.json").read_bytes())["id"]
    (run,) = (output / "wandb").glob(f"offline-run-*-{run_id}")
    assert b"loss" in (run / f"run-{run_id}.wandb").read_bytes()
    assert len(list((run / "files/media/images").rglob("*.png"))) == 1


def test_tensorboard_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    for resume_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        board = TensorBoard(tmp_path, resume_step=resume_step)
        for step in steps:
            board.add_scalars(step, {"loss": 10.0 * resume_step + step, "lr": 0.5})
        board.add_picture(4, "views", grey())
        board.close()
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]
    assert len(events.Scalars("lr")) == 4
    picture = events.Images("views")[-1]
    assert (picture.step, picture.height, picture.width) == (4, 4, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_come_back_as_they_were(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    back = denormalised(normalise(pixels).to(dtype))
    # bfloat16 holds 8 bits of the normalised value, of up to 2.64 deviations.
    tolerance = 0 if dtype == torch.float32 else 2
    assert back.dtype == torch.uint8
    assert int((back.int() - pixels.int()).abs().max()) <= tolerance
    assert torch.equal(denormalised(pixels), pixels)


def test_a_row_for_each_sample_and_a_column_for_each_view() -> None:
    torch.manual_seed(0)
    sizes = (16, 16, 8)
    views = [torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8) for size in sizes]
    picture = view_grid([normalise(view) for view in views], ["clip", "ssl", "ssl"], rows=3)
    assert picture.dtype == np.uint8
    assert picture.shape == (18 + 3 * 20 + 4, 4 + 20 + 20 + 12, 3)
    left = 4
    for view, size in zip(views, sizes, strict=True):
        for row in range(3):
            top = 18 + row * 20 + 4
            tile = picture[top : top + size, left : left + size]
            assert np.array_equal(tile, view[row].permute(1, 2, 0).numpy())
        left += size + 4
    # The headings.
    assert (picture[:18] < 255).any()
    assert len(view_grid(views, ["clip", "ssl", "ssl"])) == 18 + 5 * 20 + 4
