"""Runs that only keep a ledger: what every rank would consume, without a model and without reading a picture.

The order of samples is made here, so that the ledger is not tested against the plan that training uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slip.data.sets import Mix
from slip.ledger import Ledger

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """A global batch: sample ids, and the epoch of its data set each belongs to."""

    ids: Int64Array
    epochs: Int64Array


def batches(mix: Mix, *, global_batch: int, steps: int) -> list[Batch]:
    """Batches in which data sets take turns, each running from one shuffled epoch into the next."""
    generator = np.random.default_rng(5)
    num_sets = len(mix.manifests)
    positions = [0] * num_sets
    orders: dict[tuple[int, int], Int64Array] = {}
    made = []
    for step in range(steps):
        ids, epochs = [], []
        for slot in range(global_batch):
            data_set = (step * global_batch + slot) % num_sets
            size = mix.manifests[data_set].num_samples
            epoch, place = divmod(positions[data_set], size)
            if (data_set, epoch) not in orders:
                orders[data_set, epoch] = generator.permutation(size).astype(np.int64)
            ids.append(mix.set_starts[data_set] + int(orders[data_set, epoch][place]))
            epochs.append(epoch)
            positions[data_set] += 1
        made.append(Batch(np.array(ids), np.array(epochs)))
    return made


def consume(
    output: str,
    mix: Mix,
    made: Sequence[Batch],
    *,
    start: int = 0,
    stop: int,
    world_size: int = 1,
    every: int = 4,
    seed: int = 3,
    digest: str | None = None,
    replaced: Mapping[int, int] | None = None,
    writers: int | None = None,
) -> None:
    """Do steps [start, stop) on so many ranks, with a checkpoint after every `every`-th step and at the end.

    With `writers`, only the ranks before that one write: the others were killed before they did.
    """
    ledgers = [
        Ledger(
            output,
            rank=rank,
            world_size=world_size,
            digest=mix.digest if digest is None else digest,
            seed=seed,
            global_batch=len(made[0].ids),
        )
        for rank in range(world_size)
    ]
    for step in range(start, stop):
        used = np.array([(replaced or {}).get(int(i), int(i)) for i in made[step].ids])
        for rank, ledger in enumerate(ledgers):
            own = slice(rank, None, world_size)
            ledger.add(step, made[step].ids[own], used[own], made[step].epochs[own])
        if (step + 1) % every == 0 or step + 1 == stop:
            for ledger in ledgers[:writers]:
                ledger.flush()
