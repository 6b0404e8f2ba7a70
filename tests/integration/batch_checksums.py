"""Prints a checksum of each global batch, for every layout asked for, as JSON.

    python tests/integration/batch_checksums.py MANIFEST FIRST STOP WORLDxWORKERS...

A batch's checksum is over everything its samples bring (id, views, tokens), sorted by id: it does not depend on which
rank prepared what.
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np

from slip.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from slip.data.loader import Batch, Loader
from slip.data.opening import open_source

GLOBAL_BATCH = 48
CONTEXT = 16


def rows(batch: Batch) -> list[tuple[int, str]]:
    assert batch.tokens_BL is not None
    tokens = np.zeros((len(batch.sample_ids), CONTEXT), dtype=np.int64)
    tokens[:, : batch.tokens_BL.shape[1]] = batch.tokens_BL.numpy()
    found: list[tuple[int, str]] = []
    for row, sample in enumerate(batch.sample_ids.tolist()):
        parts = [view[row].numpy().tobytes() for view in batch.views]
        found.append((sample, hashlib.sha256(b"".join([*parts, tokens[row].tobytes()])).hexdigest()))
    return found


def checksums(manifest: str, first: int, stop: int, world_size: int, workers: int) -> list[str]:
    config = TrainConfig(
        data=DataConfig(manifest=(manifest,), workers=workers, shuffle_window=16, connections=4, prefetch_mb=1),
        model=ModelConfig(tower="tiny", image_size=16, context_length=CONTEXT),
        optim=OptimConfig(global_batch=GLOBAL_BATCH),
        seed=11,
    )
    batches: list[list[tuple[int, str]]] = [[] for _ in range(first, stop)]
    for rank in range(world_size):
        with Loader(config, open_source(config, rank, world_size), ("clip", "ssl")) as loader:
            for i, batch in enumerate(loader.batches(first * GLOBAL_BATCH, stop * GLOBAL_BATCH)):
                batches[i] += rows(batch)
    assert all(len(batch) == GLOBAL_BATCH for batch in batches)
    return [hashlib.sha256(json.dumps(sorted(batch)).encode()).hexdigest() for batch in batches]


def main() -> None:
    manifest, first, stop, *layouts = sys.argv[1:]
    found = {}
    for layout in layouts:
        world_size, workers = map(int, layout.split("x"))
        found[layout] = checksums(manifest, int(first), int(stop), world_size, workers)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
