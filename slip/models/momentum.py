"""The momentum tower: a copy of image tower and projectors that follows them slowly and has no gradient.

Its features are the targets of mocov3 and byol, its attention chooses patches for attentive masking.
"""

from __future__ import annotations

import copy
import math
from typing import Self

from torch import nn

from slip.models.ema import follow


class MomentumTower(nn.Module):
    """Follows a tower and projectors; `update` moves every weight towards the original's."""

    def __init__(self, visual: nn.Module, projectors: dict[str, nn.Module]) -> None:
        super().__init__()
        self.visual = copy.deepcopy(visual)
        self.projectors = nn.ModuleDict({name: copy.deepcopy(module) for name, module in projectors.items()})
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Batch norm of the projectors is as in training; the tower leaves out no branch (drop path)."""
        super().train(mode)
        self.visual.eval()
        return self

    def update(self, visual: nn.Module, projectors: dict[str, nn.Module], momentum: float) -> None:
        """xi <- m xi + (1 - m) theta for every weight (BYOL, 2006.07733, eq. 1)."""
        follow(self.visual.parameters(), visual.parameters(), momentum)
        for name, projector in projectors.items():
            follow(self.projectors[name].parameters(), projector.parameters(), momentum)


def momentum_at(step: int, last_step: int, first: float) -> float:
    """Momentum of optimizer step `step` (from 0): from `first` to 1 by half a cosine (BYOL, 2006.07733, sec. 3.3)."""
    return 1 - (1 - first) * (1 + math.cos(math.pi * min(1.0, step / max(1, last_step)))) / 2
