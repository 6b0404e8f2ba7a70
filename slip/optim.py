"""The optimizer and its learning rate: AdamW with the published decay groups and schedule.

In: a model, `OptimConfig`, the number of steps in an epoch. Out: an optimizer, and the learning rate of
any step as a pure function, so that nothing about the schedule needs to be saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from slip.config import OptimConfig


def total_steps(config: OptimConfig, *, steps_per_epoch: float) -> int:
    """Optimizer steps of a whole run, enough for its last epoch to be whole: 2 epochs of 10.25 steps -> 21."""
    # The product of an epoch's samples and a binary fraction may lie a rounding error above a whole number of steps.
    return max(1, math.ceil(config.epochs * steps_per_epoch * (1 - 1e-12)))


def lr_at(step: int, config: OptimConfig, *, steps_per_epoch: float) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Counted in samples, s = step * global_batch, with w in the warm-up and e before the last step:

        s < w:  lr_start + (lr - lr_start) * s / w
        else:   lr_end + (lr - lr_end) / 2 * (1 + cos(pi * (s - w) / (e - w)))

    so the first step has lr_start, step w / global_batch has lr and the last step has lr_end.
    """
    samples = step * config.global_batch
    warmup = config.warmup_epochs * steps_per_epoch * config.global_batch
    end = (total_steps(config, steps_per_epoch=steps_per_epoch) - 1) * config.global_batch
    if samples < warmup:
        return config.lr_start + (config.lr - config.lr_start) * samples / warmup
    if end <= warmup:
        return config.lr
    progress = min(1.0, (samples - warmup) / (end - warmup))
    return config.lr_end + (config.lr - config.lr_end) / 2 * (1 + math.cos(math.pi * progress))


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
