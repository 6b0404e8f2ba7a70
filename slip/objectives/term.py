"""What an objective answers, what it declares, and what all of them do first: widen and normalise.

Shape letters: B samples on this rank, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of what is minimised, on this rank."""

    loss: Tensor
    """Scalar with gradient; its mean over ranks is that of the global batch."""
    accuracy: Tensor | None = None
    """Share (0 to 1) of this rank's rows that pick their partner, without gradient; None where nothing is picked."""


def widen(x: Tensor) -> Tensor:
    """In float32, or float64 if it came so: losses are never computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(x_BD: Tensor) -> Tensor:
    """Rows of length 1, in float32 or wider."""
    return F.normalize(widen(x_BD), dim=-1)
