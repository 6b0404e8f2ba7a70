"""Where a rank's samples come from: the settings in, a `Source` out."""

from __future__ import annotations

import logging

from pipeline import store
from pipeline.errors import ConfigError
from slip.config import DataConfig, TrainConfig
from slip.data.cache import BlockCache
from slip.data.plan import make_plan
from slip.data.sets import Mix, open_mix
from slip.data.source import Source
from slip.data.stream import SampleReader

logger = logging.getLogger(__name__)


def is_pattern(url: str) -> bool:
    """Whether a URL names tars rather than a manifest: "s3://b/{00..99}.tar"."""
    return url.endswith((".tar", ".tar.gz", ".tgz")) or "{" in url


def _open_cache(data: DataConfig, mix: Mix) -> BlockCache | None:
    if data.cache is None:
        return None
    if all(store.is_local(placed.url) for placed in mix.shards):
        logger.info("the shards are on this machine: --data.cache is not used")
        return None
    return BlockCache(data.cache, int(data.cache_gb * 1e9))


def open_source(config: TrainConfig, rank: int, world_size: int, *, needs_text: bool = True) -> Source:
    """Where this rank's samples come from: the manifests of the settings, or tars without one."""
    data = config.data
    patterns = [url for url in data.manifest if is_pattern(url)]
    if patterns and len(patterns) < len(data.manifest):
        raise ConfigError(
            f"--data.manifest mixes a manifest and tars without one ({patterns[0]}); make a manifest of the "
            f"tars: slip index '{patterns[0]}' --output FOLDER"
        )
    if patterns and data.weights:
        raise ConfigError(
            f"--data.weights needs manifests: tars without one are drawn as they come; make one: slip index "
            f"'{patterns[0]}' --output FOLDER"
        )
    if patterns and config.ledger:
        raise ConfigError(
            f"--ledger needs a manifest: without one samples have no numbers; make one: slip index '{patterns[0]}' "
            "--output FOLDER"
        )
    if patterns:
        # Needs the webdataset package, which is only installed where it is used.
        from slip.data.unindexed import UnindexedSource

        return UnindexedSource(
            patterns,
            seed=config.seed,
            global_batch=config.optim.global_batch,
            rank=rank,
            world_size=world_size,
            samples_per_epoch=data.samples_per_epoch,
            max_damaged=data.max_damaged,
            prefetch_bytes=data.prefetch_mb * 10**6,
            needs_text=needs_text,
        )
    mix = open_mix(data.manifest, data.weights)
    plan = make_plan(
        mix,
        seed=config.seed,
        global_batch=config.optim.global_batch,
        lanes=data.lanes,
        shuffle_window=data.shuffle_window,
    )
    return SampleReader(
        mix,
        plan,
        rank=rank,
        world_size=world_size,
        connections=data.connections,
        prefetch_bytes=data.prefetch_mb * 10**6,
        cache=_open_cache(data, mix),
    )
