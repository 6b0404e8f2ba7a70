"""Where the samples of a run come from, seen from the loader: batches of slots that fill while others are used.

Two things keep to `Source`: `slip.data.stream.SampleReader` (shards with a manifest: exact epochs, exact resuming) and
`slip.data.unindexed.UnindexedSource` (anybody's tars by a pattern, through the webdataset library, with neither).
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple, Protocol

from slip.data.samples import Window


class Slot(NamedTuple):
    """One row of a batch: sample number `number` of a window that is being read."""

    window: Future[Window]
    number: int
    sample_id: int
    """The planned sample; it decides every draw, also when another stands in for it because it is damaged."""
    epoch: int
    """Pass over its data set."""


class Source(Protocol):
    """Hands out this rank's part of one global batch after the other."""

    digest: str
    """What a sample id means; equal for equal data."""
    num_samples: int
    """Samples of an epoch."""
    lanes: int
    """Ordered streams an epoch is cut into; 0 where there are none."""

    def describe(self) -> str:
        """The data in a few words, for the log."""

    def start(self, samples: int, stop: int) -> None:
        """Batches from `samples` consumed samples on, to `stop`; forgets what was read ahead."""

    def next_batch(self) -> list[Slot]:
        """This rank's slots of the next global batch, in order; returns without waiting for their bytes."""

    def release(self, samples: int) -> None:
        """Everything before this position has been used."""

    def waiting_for(self) -> str:
        """What is being read and since when nothing came, for people; "" when nothing is."""

    def close(self) -> None:
        """End all threads."""
