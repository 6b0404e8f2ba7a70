from __future__ import annotations

import pytest
import torch

from slip.config import ObjectiveConfig
from slip.models.model import Embeddings
from slip.objectives.clip import clip_loss
from slip.objectives.registry import objective
from slip.objectives.simclr import simclr_loss

torch.manual_seed(0)
FOUND = Embeddings(
    image=torch.randn(6, 4),
    text=torch.randn(6, 4),
    ssl=(torch.randn(6, 3), torch.randn(6, 3)),
    logit_scale=torch.tensor(5.0),
)
CLIP = clip_loss(torch.Tensor(FOUND.image), torch.Tensor(FOUND.text), torch.Tensor(FOUND.logit_scale)).item()


def test_what_each_objective_asks_for() -> None:
    found = {name: objective(ObjectiveConfig(name=name)) for name in ("clip", "simclr", "slip")}
    assert {name: o.views for name, o in found.items()} == {
        "clip": ("clip",),
        "simclr": ("ssl", "ssl"),
        "slip": ("clip", "ssl", "ssl"),
    }
    assert {name: o.needs_text for name, o in found.items()} == {"clip": True, "simclr": False, "slip": True}


def test_slip_is_the_weighted_sum_of_its_parts() -> None:
    config = ObjectiveConfig(name="slip", ssl_scale=0.25, ssl_temperature=0.3)
    found = objective(config)(FOUND)
    ssl = simclr_loss(FOUND.ssl[0], FOUND.ssl[1], 0.3).item()
    assert found["clip"].item() == pytest.approx(CLIP)
    assert found["ssl"].item() == pytest.approx(ssl)
    assert found["loss"].item() == pytest.approx(CLIP + 0.25 * ssl)
    assert set(found) == {"loss", "clip", "ssl", "clip_acc", "ssl_acc"}


def test_single_objectives_report_their_own_part() -> None:
    assert set(objective(ObjectiveConfig(name="clip"))(FOUND)) == {"loss", "clip", "clip_acc"}
    assert set(objective(ObjectiveConfig(name="simclr"))(FOUND)) == {"loss", "ssl", "ssl_acc"}


def test_missing_embeddings_are_named() -> None:
    with pytest.raises(ValueError, match="CLIP term needs"):
        objective(ObjectiveConfig(name="clip"))(Embeddings(image=FOUND.image))
    with pytest.raises(ValueError, match="found 0"):
        objective(ObjectiveConfig(name="simclr"))(Embeddings())
