"""A network out of a checkpoint: which file it is, what settings it holds, whether the weights fit them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError
from slip import checkpoint
from slip.checkpoint_writer import CheckpointWriter
from slip.config import ModelConfig, ObjectiveConfig, SSLName, TowerName, TrainConfig
from slip.evaluate.trained import find, load, read_settings
from slip.models.ema import WeightAverage
from slip.models.registry import build_model
from tests.checkpoint_states import state

SHAPE = ModelConfig(tower="tiny", image_size=16, context_length=8, ssl_hidden=16, ssl_dim=8, embed_dim=8)


def saved(output: Path, run: TrainConfig, *, halved: bool = False, **changed: Any) -> str:
    """A checkpoint of a run that has not trained, its average half of its weights."""
    model = build_model(run.model, run.objective, seed=7)
    average = {name: weight / 2 for name, weight in WeightAverage(model, 0.9).weights.items()} if halved else None
    content: dict[str, Any] = {"config": dataclasses.asdict(run), "model": model.state_dict(), "ema": average}
    with CheckpointWriter(str(output), keep=9) as writer:
        writer.write(state(3, **(content | changed)))
    return checkpoint.url_of(str(output), 3)


def test_a_run_stands_for_its_best_checkpoint_else_its_newest(tmp_path: Path) -> None:
    run, folder = str(tmp_path / "run"), str(tmp_path / "run/checkpoints")
    with CheckpointWriter(run, keep=9) as writer:
        writer.write(state(3))
        writer.write(state(5))
    for where in (run, run + "/", folder):
        found = find(where)
        assert (found.url, found.output) == (checkpoint.url_of(run, 5), run)
        assert "newest" in found.why
    with CheckpointWriter(run, keep=9) as writer:
        writer.write(state(6), best=0.25)
        writer.write(state(9))
    assert find(run).url == checkpoint.url_of(run, 6)
    assert "best of its run, zero-shot 25.0%" in find(run).why


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    found = find(str(tmp_path / "run/checkpoints/step-00000003.pt"))
    assert (found.url, found.output) == (str(tmp_path / "run/checkpoints/step-00000003.pt"), str(tmp_path / "run"))
    assert find("s3://b/run/checkpoints/step-00000003.pt").output == "s3://b/run"
    assert find(str(tmp_path / "copied.pt")).output is None
    assert find("step-00000003.pt").output is None
    (tmp_path / "weights.bin").write_bytes(b"x")
    assert find(str(tmp_path / "weights.bin")).url == str(tmp_path / "weights.bin")


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a checkpoint nor a run.*--output"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(name="clip"),
        ObjectiveConfig(name="siglip"),
        ObjectiveConfig(name="slip", ssl=("simclr", "mocov3", "byol", "mim")),
    ],
    ids=lambda objective: objective.name,
)
def test_weights_come_back_into_the_shape_they_were_trained_in(tmp_path: Path, objective: ObjectiveConfig) -> None:
    model = dataclasses.replace(SHAPE, masking="attentive", activation_checkpointing=True)
    url = saved(tmp_path, TrainConfig(model=model, objective=objective, precision="fp32"), halved=True)
    written = build_model(model, objective, seed=7).state_dict()
    trained = load(url, "model")
    assert (trained.config, trained.objective, trained.precision, trained.step) == (model, objective, "fp32", 3)
    assert not trained.model.training
    assert all(torch.equal(weight, written[name]) for name, weight in trained.model.state_dict().items())

    average = load(url, None)
    assert (average.weights, average.has_average) == ("average", True)
    weights = dict(average.model.named_parameters())
    assert torch.equal(weights["text_projection"], written["text_projection"] / 2)
    # What is not trained has no average.
    fixed = [name for name, weight in weights.items() if not weight.requires_grad]
    assert all(torch.equal(weights[name], written[name]) for name in fixed)


def test_without_an_average_the_weights_are_taken(tmp_path: Path) -> None:
    url = saved(tmp_path, TrainConfig(model=SHAPE, objective=ObjectiveConfig(name="clip")))
    assert load(url, None).weights == "model"
    with pytest.raises(ConfigError, match=r"--weights average: .*holds none"):
        load(url, "average")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    config = TrainConfig(model=SHAPE, objective=ObjectiveConfig(name="clip"))
    other = dataclasses.asdict(dataclasses.replace(config, model=dataclasses.replace(SHAPE, embed_dim=9)))
    url = saved(tmp_path / "shape", config, config=other)
    with pytest.raises(CheckpointError, match=r"do not fit the settings it holds: .*size mismatch"):
        load(url, None)
    average = WeightAverage(build_model(SHAPE, config.objective), 0.9).weights
    del average["text_projection"]
    url = saved(tmp_path / "average", config, ema=average)
    with pytest.raises(CheckpointError, match="differ in text_projection"):
        load(url, None)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    run = TrainConfig(model=SHAPE, objective=ObjectiveConfig(name="clip"))
    weights = build_model(run.model, run.objective, seed=7).state_dict()
    weights["text_projection"][0, :2] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(
        CheckpointError, match=r"step-00000003.*: 2 of the \d+ numbers of text_projection are not finite"
    ):
        load(saved(tmp_path, run, model=weights), None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embed_dim": 8.5}, r"config\.model\.embed_dim: 8\.5 is not of type"),
        ({"embed_dim": True}, r"embed_dim: True is not"),
        ({"tower": "vitz16"}, r"tower: 'vitz16' is not"),
        ({"compile": None}, r"compile: None is not"),
        ({"activation_checkpointing": 1}, r"activation_checkpointing: 1 is not"),
        ({"registers": 4}, r"config\.model: holds registers, which this version does not know"),
    ],
)
def test_settings_of_another_type_are_refused(changed: dict[str, Any], message: str) -> None:
    content = dataclasses.asdict(SHAPE) | changed
    with pytest.raises(CheckpointError, match=message):
        read_settings(ModelConfig, content, "a.pt: config.model")


def test_settings_come_back_whatever_they_are() -> None:
    for tower in get_args(TowerName):
        shape = ModelConfig(tower=tower, drop_path=0.5, mask_keep=1)
        found = read_settings(ModelConfig, dataclasses.asdict(shape), "a.pt")
        assert found == shape
        assert type(found.mask_keep) is float
    wanted = ObjectiveConfig(ssl=get_args(SSLName))
    # JSON has no tuples, and an earlier version knew fewer settings.
    content = dataclasses.asdict(wanted) | {"ssl": list(wanted.ssl)}
    del content["momentum"]
    assert read_settings(ObjectiveConfig, content, "a.pt") == wanted


@pytest.mark.parametrize("content", [None, [], "vitb16"])
def test_settings_that_are_none_are_refused(content: Any) -> None:
    with pytest.raises(CheckpointError, match="expected the settings of a run"):
        read_settings(ModelConfig, content, "a.pt: config.model")
