from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slip import checkpoint
from slip.checkpoint_writer import CheckpointWriter
from slip.config import ModelConfig, ObjectiveConfig, ObjectiveName, TrainConfig
from slip.evaluate.trained import Trained
from slip.interchange.about import Export
from slip.models.ema import WeightAverage
from slip.models.model import Model
from slip.models.registry import build_model
from tests.checkpoint_states import state

SHAPE = ModelConfig(tower="tiny", image_size=32, context_length=12, ssl_hidden=16, ssl_dim=8, embed_dim=24)


def network(objective: ObjectiveName) -> Model:
    """One with noise in what starts as ones and zeros, which would hide that two of them changed places."""
    made = build_model(SHAPE, ObjectiveConfig(name=objective))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 1:
                weight.add_(torch.rand(weight.shape, generator=draw) / 2)
    return made.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[ObjectiveName], str]:
    """Writes a checkpoint, in it an average that is half of the weights; its path."""

    def write(objective: ObjectiveName) -> str:
        made = network(objective)
        half = {name: weight / 2 for name, weight in WeightAverage(made, 0.9).weights.items()}
        config = dataclasses.asdict(TrainConfig(model=SHAPE, objective=ObjectiveConfig(name=objective)))
        output = str(tmp_path / "run")
        with CheckpointWriter(output, keep=9) as writer:
            writer.write(state(3, config=config, model=made.state_dict(), ema=half))
        return checkpoint.url_of(output, 3)

    return write


@pytest.fixture
def exported() -> Callable[[ObjectiveName], Export]:
    """What an export starts from."""

    def make(objective: ObjectiveName) -> Export:
        trained = Trained(
            model=network(objective),
            config=SHAPE,
            objective=ObjectiveConfig(name=objective),
            weights="model",
            has_average=False,
            precision="auto",
            step=3,
            versions={},
            data_sha256="a" * 64,
        )
        return Export(trained=trained, checkpoint="step-00000003.pt")

    return make
