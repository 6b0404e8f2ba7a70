"""Is the run's folder the same on all nodes?

Each rank would go on from the checkpoints that it finds: where a folder is not shared, a requeued job on other nodes
begins anew without a word. In: the output, and the ranks. Out: nothing, or a ConfigError on all ranks.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from pipeline import store
from pipeline.errors import ConfigError
from slip.distributed import sum_over_ranks
from slip.world import World

# NFS clients may answer from what they remember for so long.
SEEN_WITHIN_S = 60.0


def _seen(url: str, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not store.exists(url):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def check_shared(output: str, world: World, *, within_s: float = SEEN_WITHIN_S) -> None:
    """ConfigError where a rank does not see what rank 0 writes to a local folder; every rank must call it."""
    if world.world_size == 1 or not store.is_local(output):
        return
    # All ranks have to know the name. 32 bits of it are as many as ranks may sum.
    number = sum_over_ranks([secrets.randbits(32) if world.main_rank else 0])[0]
    url = store.join(output, f".rank-0-{number:08x}")
    if world.main_rank:
        store.write_bytes(url, b"")
    sum_over_ranks([0])
    try:
        num_blind = sum_over_ranks([int(not _seen(url, within_s))])[0]
    finally:
        if world.main_rank:
            Path(store.filesystem(url)[1]).unlink(missing_ok=True)
    if num_blind:
        raise ConfigError(
            f"--output {output}: {num_blind} of {world.world_size} ranks do not see what rank 0 writes there; name a "
            "folder that all nodes share, or a URL"
        )
