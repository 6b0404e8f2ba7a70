"""Objectives by name, each with the views and captions a step must bring for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from slip.config import ObjectiveConfig, ObjectiveName
from slip.models.model import Embeddings
from slip.objectives.slip import clip_objective, simclr_objective, slip_objective

if TYPE_CHECKING:
    from slip.data.view_params import ViewKind

Terms = Callable[[Embeddings, ObjectiveConfig], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised, and what it asks of a batch; a pure function of a forward pass's embeddings."""

    config: ObjectiveConfig
    views: tuple[ViewKind, ...]
    """Kinds of the views of a sample, in the order in which the model is given them."""
    needs_text: bool
    terms: Terms

    def __call__(self, found: Embeddings) -> dict[str, Tensor]:
        """Loss of this rank ("loss", with gradient) and its parts (without); see `slip.objectives.slip`."""
        return self.terms(found, self.config)


def objective(config: ObjectiveConfig) -> Objective:
    """The objective a configuration names."""
    table: dict[ObjectiveName, tuple[tuple[ViewKind, ...], bool, Terms]] = {
        "clip": (("clip",), True, clip_objective),
        "simclr": (("ssl", "ssl"), False, simclr_objective),
        "slip": (("clip", "ssl", "ssl"), True, slip_objective),
    }
    views, needs_text, terms = table[config.name]
    return Objective(config=config, views=views, needs_text=needs_text, terms=terms)
