"""How a model lies on its ranks, from the settings alone; imports no torch. Doing it is `slip.parallel`'s part."""

from __future__ import annotations

from slip.config import TrainConfig


def shards_towers(config: TrainConfig, num_ranks: int, *, on_gpu: bool) -> bool:
    """Whether each rank keeps a part of the towers only."""
    if num_ranks == 1:
        return False
    return config.parallel == "fsdp" or (config.parallel == "auto" and on_gpu and config.model.tower == "vitl16")


def compiles(config: TrainConfig, *, on_gpu: bool) -> bool:
    """Whether the blocks of the towers are compiled."""
    return config.model.compile == "on" or (config.model.compile == "auto" and on_gpu)
