"""The optimizer: AdamW with the published decay groups. Its learning rate is `slip.schedule`'s part."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from slip.config import OptimConfig


def decays(name: str, parameter: Tensor) -> bool:
    """Does weight decay apply? Not to vectors and scalars, nor to anything named bias, ln or bn (as published)."""
    return parameter.ndim >= 2 and not any(part in name for part in ("bias", "ln", "bn"))


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups for AdamW, each in the model's order: with weight decay, and without.

    Where there are parameters sharded over ranks these are two groups more: one call of AdamW takes one kind only.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(False, True): [], (False, False): []}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault((isinstance(parameter, DTensor), decays(name, parameter)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0}
        for (_, decayed), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `model`, fused (one kernel for all parameters) where all parameters' device has it."""
    devices = {parameter.device.type for parameter in model.parameters()}
    return torch.optim.AdamW(
        decay_groups(model.named_parameters(), config.weight_decay),
        lr=config.lr_start,
        betas=config.betas,
        eps=config.eps,
        fused=devices <= {"cpu", "cuda"},
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
