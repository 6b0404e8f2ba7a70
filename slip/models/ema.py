"""An average of the weights along training, which is evaluated in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def follow(own: Iterable[Tensor], others: Iterable[Tensor], share: float) -> None:
    """own <- share * own + (1 - share) * other for each pair, which are sharded alike where they are."""

    def local(tensors: Iterable[Tensor]) -> list[Tensor]:
        return [x.to_local() if isinstance(x, DTensor) else x.detach() for x in tensors]

    torch._foreach_lerp_(local(own), local(others), 1 - share)


class WeightAverage:
    """Exponential moving average of a model's trained parameters (as timm's ModelEma keeps it).

    Args:
        decay: share of itself the average keeps at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._trained.items()}
        """By parameter name; sharded where the parameters are."""

    def update(self) -> None:
        """Take the weights after an optimizer step into account."""
        follow(self.weights.values(), self._trained.values(), self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the average's weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._trained.items():
            own = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(own)
