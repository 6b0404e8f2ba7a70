"""How a model lies on its ranks: whole on each of them, or its towers in shards (FSDP2), compiled or not.

Heads, projections and embeddings stay whole everywhere: they are small, and the step calls them apart from the towers.
"""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from pipeline.errors import ConfigError
from slip.config import TrainConfig
from slip.models.image import ImageTower
from slip.models.model import Model
from slip.world import World

logger = logging.getLogger(__name__)


def _towers(model: Model) -> list[ImageTower]:
    momentum = [cast(ImageTower, model.momentum.visual)] if model.needs.momentum_views else []
    return [model.visual, *momentum]


def _blocks(model: Model) -> list[nn.Module]:
    blocks = [block for tower in _towers(model) for block in tower.blocks]
    return [*blocks, *model.transformer.resblocks] if model.has_text else blocks


def shard(model: Model, world: World) -> None:
    """Leave each rank its share of every tower's weights, in place (FSDP2: one unit for each block).

    Weights are gathered for a block when it runs; arithmetic stays as autocast has it and gradients are summed in
    float32, so the numbers are those of whole towers.
    """
    mesh = init_device_mesh(world.device.type, (world.world_size,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    for tower in _towers(model):
        fully_shard(tower, mesh=mesh, mp_policy=policy)
        for method in ("kept_features", "hidden_features", "any_size_features", "attended"):
            register_fsdp_forward_method(tower, method)
    if model.has_text:
        fully_shard(model.transformer, mesh=mesh, mp_policy=policy)


def sum_shards(model: Model, now: bool) -> None:
    """Whether the next backward pass sums the gradients of sharded towers over ranks."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now, recurse=False)


def compile_blocks(model: Model) -> None:
    """Compile the blocks of the towers that are trained, one code for all blocks of a tower, names unchanged."""
    for block in [*model.visual.blocks, *(model.transformer.resblocks if model.has_text else ())]:
        block.compile(dynamic=False)
    # A code for each shape: captions then come in few lengths, and the image tower in two at most (with masking).
    model.text_grouping["multiple"] = 16
    torch._dynamo.config.recompile_limit = 64


def check_parallel(config: TrainConfig, world: World) -> None:
    """Refuse what cannot be: ConfigError."""
    batch, ranks = config.optim.global_batch, world.world_size
    if config.optim.micro_batch and config.optim.micro_batch * ranks > batch:
        raise ConfigError(
            f"--optim.micro-batch {config.optim.micro_batch} is more than a rank has: {batch} samples on {ranks} "
            "ranks; leave it out, or lower it"
        )
