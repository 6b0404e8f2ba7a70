"""Settings of the linear probe, published and fast; imports no torch, so the command line reads them at once."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig:
    """Linear classifiers on the frozen image tower's features.

    Two are trained and reported: by the published protocol (SGD on augmented views, github.com/facebookresearch/SLIP,
    main_linear.py), and on features computed once (L-BFGS with a search for the L2 penalty: CLIP, 2103.00020, A.3).
    """

    published: bool = True
    """Train by the published protocol: every epoch passes all pictures of the train split through the tower."""
    fast: bool = True
    """Train on features computed once."""
    epochs: int = 90
    """Published protocol: passes over the train split."""
    batch: int = 1024
    """Published protocol: pictures per step, over all ranks (128 on each of 8 GPUs). The last batch of an epoch may be
    smaller."""
    lr: float = 0.0015625
    """Published protocol: learning rate of the first epoch for each 256 pictures of a batch. The published code takes
    .1 x (128 pictures / 8 ranks) / 256 = .00625 at 1,024 pictures a step, which is this (the paper says .01)."""
    momentum: float = 0.9
    """Published protocol: SGD's momentum."""
    weight_decay: float = 0.0
    """Published protocol: SGD's weight decay."""
    l2_decades: tuple[int, int] = (-6, 6)
    """Fast: L2 penalties tried first, every second power of ten from .. to; it is 1 / C of scikit-learn's
    LogisticRegression, whose objective is minimised."""
    l2_halvings: int = 4
    """Fast: how often the step between penalties is then halved around the best one; 4 = 8 steps a decade."""
    held_out: float = 0.1
    """Fast: share of each class of the train split on which the penalty is chosen, where the set has no split of its
    own for that (validation or val). The test split is never looked at for it."""
    max_iterations: int = 1000
    """Fast: most L-BFGS iterations for one penalty."""
    forward_batch: int = 256
    """Pictures per forward pass and process."""
    workers: int | None = None
    """Threads per process that read and decode. None: as many as it has cores."""
    output: str | None = None
    """Folder or URL in which the published protocol keeps its newest state (once a minute at most), so that the same
    command goes on from there, and at the end the classifier. None: beside the results."""
    seed: int = 0
    """Seed of initial weights, order, views and the held-out part."""

    def __post_init__(self) -> None:
        for name, value in (
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("max-iterations", self.max_iterations),
            ("forward-batch", self.forward_batch),
            ("workers", 1 if self.workers is None else self.workers),
        ):
            if value < 1:
                raise ConfigError(f"--linear.{name} is {value}; it must be at least 1")
        if not self.published and not self.fast:
            raise ConfigError("--linear.no-published and --linear.no-fast leave nothing to train; leave one out")
        if self.lr <= 0:
            raise ConfigError(f"--linear.lr is {self.lr}; it must be positive")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"--linear.momentum is {self.momentum}; it must be at least 0 and below 1")
        if self.weight_decay < 0:
            raise ConfigError(f"--linear.weight-decay is {self.weight_decay}; it must be at least 0")
        low, high = self.l2_decades
        if not -12 <= low <= high <= 12:
            raise ConfigError(
                f"--linear.l2-decades is {low} {high}; it must be two powers of ten from -12 to 12, the lower one first"
            )
        if self.l2_halvings < 0:
            raise ConfigError(f"--linear.l2-halvings is {self.l2_halvings}; it must be at least 0")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"--linear.held-out is {self.held_out}; it must be between 0 and 1")
