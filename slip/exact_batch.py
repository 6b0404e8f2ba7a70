"""One step's loss and gradient of a whole batch, whatever part of it fits into memory at a time.

A contrast and a batch norm are functions of the whole batch: adding up the gradients of parts, as gradient
accumulation does, trains something else. Here the towers' features of the whole batch are found first, without graph;
heads and losses are computed once on all of them; then each part passes the towers again, with the same random state,
and takes up the gradient its features were given (as in GradCache, 2101.06983, but batch norm included). Loss and
gradient are those of the batch in one piece; the price is one more forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from slip.config import ObjectiveConfig
from slip.gradients import GradientAverager
from slip.models.inputs import Features, Targets, TowerInputs, joined, rows_of
from slip.models.model import Model
from slip.objectives.embeddings import Embeddings
from slip.objectives.slip import objective_terms
from slip.parallel import sum_shards


def _parts(inputs: TowerInputs, micro_batch: int) -> list[slice]:
    num = len(inputs)
    return [slice(first, min(first + micro_batch, num)) for first in range(0, num, micro_batch)]


def _seed_part(seed: int, number: int, device: torch.device) -> None:
    """What a tower draws (drop path) in part `number` of a step, in both of its passes."""
    generator = torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
    generator.manual_seed((seed + 0x9E3779B97F4A7C15 * (number + 1)) % (1 << 63))


def _as_leaves(features: Features) -> Features:
    """The same numbers, as the place where a graph begins."""

    def leaf(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    return Features(
        views=tuple(map(leaf, features.views)),
        text=leaf(features.text) if features.text is not None else None,
        hidden=leaf(features.hidden) if features.hidden is not None else None,
    )


class ExactBatch:
    """Forward and backward pass of this rank's part of a batch; afterwards gradients are those of the global batch.

    Args:
        micro_batch: samples that pass the towers at a time; 0 for all at once.
        autocast: entered for the towers and heads (losses leave it by themselves).
    """

    def __init__(
        self,
        model: Model,
        objective: ObjectiveConfig,
        averager: GradientAverager,
        *,
        micro_batch: int = 0,
        autocast: AbstractContextManager[object] | None = None,
    ) -> None:
        self._model, self._objective, self._averager = model, objective, averager
        self._micro_batch = micro_batch
        self._autocast = autocast if autocast is not None else nullcontext()

    def __call__(self, inputs: TowerInputs, *, seed: int) -> tuple[Embeddings, dict[str, Tensor]]:
        """Embeddings and terms (see `slip.objectives.slip.objective_terms`); leaves averaged gradients behind.

        Args:
            seed: of what towers draw in this step, other ones on each rank.
        """
        self._averager.begin()
        if 0 < self._micro_batch < len(inputs):
            embeddings, terms = self._by_parts(inputs, seed)
        else:
            embeddings, terms = self._at_once(inputs, seed)
        self._averager.finish()
        return embeddings, terms

    def _at_once(self, inputs: TowerInputs, seed: int) -> tuple[Embeddings, dict[str, Tensor]]:
        _seed_part(seed, 0, inputs.views[0].device)
        with self._autocast:
            inputs, targets = self._model.look(inputs)
            embeddings = self._model.embed(self._model.features(inputs), targets)
        terms = objective_terms(embeddings, self._objective)
        with self._averager.final():
            torch.autograd.backward(terms["loss"])
        return embeddings, terms

    def _by_parts(self, inputs: TowerInputs, seed: int) -> tuple[Embeddings, dict[str, Tensor]]:
        model, device = self._model, inputs.views[0].device
        parts = _parts(inputs, self._micro_batch)
        looked: list[TowerInputs] = []
        targets: list[Targets] = []
        found: list[Features] = []
        for number, rows in enumerate(parts):
            with self._autocast, torch.no_grad():
                part, target = model.look(rows_of(inputs, rows))
                _seed_part(seed, number, device)
                found.append(model.features(part))
            looked.append(part)
            targets.append(target)
        features = _as_leaves(joined(found))
        del found
        with self._autocast:
            embeddings = model.embed(features, joined(targets))
        terms = objective_terms(embeddings, self._objective)
        with self._averager.final():  # the heads'; no gradient reaches the towers yet
            torch.autograd.backward(terms["loss"])
        for number, (rows, part) in enumerate(zip(parts, looked, strict=True)):
            last = number == len(parts) - 1
            sum_shards(model, last)
            _seed_part(seed, number, device)
            with self._autocast:
                again = model.features(part)
            with self._averager.final() if last else nullcontext():
                torch.autograd.backward(again.tensors(), list(self._gradients(features, rows)))
        return embeddings, terms

    @staticmethod
    def _gradients(features: Features, rows: slice) -> Iterator[Tensor]:
        for feature in features.tensors():
            assert feature.grad is not None
            yield feature.grad[rows]
