"""What passes the towers in one step, and what comes out: plain records that can be cut into parts of the batch.

Shape letters: B samples on this rank, S side of a view, L tokens, W width of a tower, K patches kept and M hidden of a
view, P values of a patch, N patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerInputs:
    """Views and captions of some samples."""

    views: tuple[Tensor, ...]
    """(B, 3, S, S), normalised, in the order of `Needs.views`."""
    tokens: Tensor | None = None
    """(B, L) int64."""
    lengths: Tensor | None = None
    """(B,) int64, on the CPU whatever the device: tokens of each caption, end token included. None: captions are not
    sorted by length."""
    keep: tuple[Tensor, ...] = ()
    """(B, K) int64: the patches each view (but a hidden one) is cut to; none: views are whole."""
    hidden: Tensor | None = None
    """(B, M) int64: the patches hidden in the last view."""

    def __len__(self) -> int:
        return len(self.views[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the towers give, with gradient: the tensors on which heads and losses are computed."""

    views: tuple[Tensor, ...]
    """(B, W) for each view but a hidden one."""
    text: Tensor | None
    """(B, W) of the text tower."""
    hidden: Tensor | None
    """(B, M, W) at the hidden patches."""

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [*self.views, *(x for x in (self.text, self.hidden) if x is not None)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What has no gradient: momentum features and what hidden patches show."""

    momentum: tuple[Tensor, ...] = ()
    """(B, W) of the momentum tower for each of `Needs.target_views`."""
    patches: Tensor | None = None
    """(B, M, P)."""


Record = TypeVar("Record", TowerInputs, Features, Targets)


def rows_of(record: Record, rows: slice) -> Record:
    """The same record for some of its samples."""

    def cut(value: object) -> object:
        if isinstance(value, Tensor):
            return value[rows]
        return tuple(cut(part) for part in value) if isinstance(value, tuple) else value

    fields: dict[str, Any] = {f.name: cut(getattr(record, f.name)) for f in dataclasses.fields(record)}
    return dataclasses.replace(record, **fields)


def joined(records: Sequence[Record]) -> Record:
    """One record of the samples of several."""
    first = records[0]

    def join(values: Sequence[object]) -> object:
        if isinstance(values[0], Tensor):
            return torch.cat(cast(list[Tensor], list(values)))
        if isinstance(values[0], tuple):
            return tuple(join(parts) for parts in zip(*cast(Sequence[tuple[object, ...]], values), strict=True))
        return values[0]

    names = [field.name for field in dataclasses.fields(first)]
    fields: dict[str, Any] = {name: join([getattr(record, name) for record in records]) for name in names}
    return dataclasses.replace(first, **fields)
