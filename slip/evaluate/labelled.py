"""What every protocol asks of a labelled set, wherever and in whatever form its pictures lie.

Readers (`slip.evaluate.readers`) give it, the catalogue (`slip.evaluate.catalogue`) says where each set lies, protocols
take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from slip.data.decode import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPicture:
    """One picture and its class."""

    name: str
    """Where it lies, for messages: shard and key, or path."""
    image: bytes | Pixels
    """Encoded, or RGB pixels (HWC uint8) where a library has decoded it."""
    label: int
    """Number of its class, from 0."""


class Pictures(Protocol):
    """The pictures of one split."""

    def __len__(self) -> int:
        """How many there are, over all ranks."""
        ...

    def __getitem__(self, index: int) -> LabelledPicture:
        """Picture number `index`, read by itself; for training, which takes them in any order."""
        ...

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """One rank's pictures with their numbers, in order, in large reads: each picture is exactly one rank's."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """A labelled set, opened."""

    name: str
    """As the catalogue calls it, else the last part of its URL."""
    url: str
    classnames: tuple[tuple[str, ...], ...]
    """The names of each class, mostly one (fer2013 has several)."""
    templates: tuple[str, ...]
    """Prompts with {c} where a name goes; () where none are known, and then there is no zero-shot."""
    splits: dict[str, Pictures]
    """By name: "test", and "train" where there is one."""
    metric: str | None = None
    """By what it is judged, in the catalogue's words; None = by what the published evaluation takes for its name."""
