"""How long a run is and the learning rate of each of its steps: pure functions, of which nothing needs to be saved.

In: `OptimConfig` and the number of steps in an epoch. Imports no torch, so a plan of a run can be made without it.
"""

from __future__ import annotations

import math

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
