"""Settings of fine-tuning, and the published recipe of each tower; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from slip.config import TowerName


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What differs between towers of different size."""

    epochs: int
    warmup_epochs: float
    drop_path: float
    layer_decay: float


# github.com/facebookresearch/SLIP, README.md, 5.2; `tiny` (for demonstrations) like the smallest.
_SMALL = Recipe(epochs=100, warmup_epochs=20, drop_path=0.0, layer_decay=0.65)
RECIPES: dict[TowerName, Recipe] = {
    "tiny": _SMALL,
    "vits16": _SMALL,
    "vitb16": Recipe(epochs=100, warmup_epochs=20, drop_path=0.1, layer_decay=0.65),
    "vitl16": Recipe(epochs=50, warmup_epochs=5, drop_path=0.1, layer_decay=0.75),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """The whole image tower trained on labels, by BEiT's recipe (2106.08254) as SLIP published it."""

    epochs: int | None = None
    """Passes over the train split. None: by tower, 100 for tiny, vits16 and vitb16, 50 for vitl16."""
    warmup_epochs: float | None = None
    """Epochs in which the learning rate rises linearly from 0. None: by tower, 20, or 5 for vitl16."""
    drop_path: float | None = None
    """Probability of leaving out a branch of the last block, linearly less before it. None: by tower, .1 for vitb16 and
    vitl16, else 0."""
    layer_decay: float | None = None
    """Factor on the learning rate from each block to the one before it. None: by tower, .75 for vitl16, else .65."""
    image_size: int | None = None
    """Side of the pictures in pixels; position embeddings are interpolated. None: that of pretraining."""
    batch: int = 1024
    """Pictures per optimizer step, over all ranks (128 on each of 8 GPUs); even. What is left at the end of an
    epoch is left out."""
    forward_batch: int = 128
    """Pictures per forward pass and process, in training and evaluation; gradients are those of the whole batch."""
    lr: float = 4e-3
    """Learning rate of the head at the end of the warm-up."""
    lr_end: float = 1e-6
    """Learning rate of the head at the end."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay, of matrices except position embeddings and the class token."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    clip_norm: float = 0.0
    """Largest norm of the gradient, above which it is scaled down. 0: none."""
    mixup: float = 0.8
    """Parameter of mixup's Beta distribution; 0 = no mixup."""
    cutmix: float = 1.0
    """Parameter of cutmix's Beta distribution; 0 = no cutmix."""
    mix_batch: int = 128
    """Pictures that are mixed with one ratio, in pairs; an even number."""
    smoothing: float = 0.1
    """Share of a label that is spread over all classes."""
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    """timm's name of the random augmentation; "" = none."""
    colour_jitter: float = 0.4
    """Strength of colour jitter where there is no random augmentation."""
    random_erasing: float = 0.25
    """Probability that a rectangle of a picture is replaced by noise."""
    head_scale: float = 0.001
    """Factor on the head's initial weights, N(0, .02)."""
    ema_decay: float = 0.0
    """Evaluate an average of the weights of which so much stays at each step; 0 = the weights themselves."""
    workers: int | None = None
    """Processes per rank that decode and augment; 0 = none, batches are prepared when they are asked for. None: one for
    each core but one."""
    output: str | None = None
    """Folder or URL for the newest state (once a minute at most), so that the same command goes on from there, and at
    the end for the trained network. None: beside the results."""
    seed: int = 0
    """Seed of the head's initial weights, order, augmentation, mixing and drop path."""

    def __post_init__(self) -> None:
        self._check_counts()
        for name, value in (
            ("warmup-epochs", self.warmup_epochs or 0.0),
            ("lr-end", self.lr_end),
            ("weight-decay", self.weight_decay),
            ("clip-norm", self.clip_norm),
            ("mixup", self.mixup),
            ("cutmix", self.cutmix),
            ("colour-jitter", self.colour_jitter),
            ("head-scale", self.head_scale),
        ):
            if value < 0:
                raise ConfigError(f"--finetune.{name} is {value}; it must be at least 0")
        for name, share in (
            ("drop-path", self.drop_path or 0.0),
            ("smoothing", self.smoothing),
            ("ema-decay", self.ema_decay),
        ):
            if not 0 <= share < 1:
                raise ConfigError(f"--finetune.{name} is {share}; it must be at least 0 and below 1")
        if not 0 <= self.random_erasing <= 1:
            raise ConfigError(f"--finetune.random-erasing is {self.random_erasing}; it must be from 0 to 1")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(f"--finetune.layer-decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.lr <= 0:
            raise ConfigError(f"--finetune.lr is {self.lr}; it must be positive")

    def _check_counts(self) -> None:
        for name, value in (
            ("epochs", 1 if self.epochs is None else self.epochs),
            ("image-size", 1 if self.image_size is None else self.image_size),
            ("forward-batch", self.forward_batch),
        ):
            if value < 1:
                raise ConfigError(f"--finetune.{name} is {value}; it must be at least 1")
        for name, value in (("batch", self.batch), ("mix-batch", self.mix_batch)):
            if value < 2 or value % 2:
                raise ConfigError(f"--finetune.{name} is {value}; pictures are mixed in pairs: it must be even")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--finetune.workers is {self.workers}; it must be at least 0")


def recipe_of(config: FinetuneConfig, tower: TowerName) -> Recipe:
    """The tower's published recipe, with what the settings say instead."""
    usual = RECIPES[tower]
    return Recipe(
        epochs=usual.epochs if config.epochs is None else config.epochs,
        warmup_epochs=usual.warmup_epochs if config.warmup_epochs is None else config.warmup_epochs,
        drop_path=usual.drop_path if config.drop_path is None else config.drop_path,
        layer_decay=usual.layer_decay if config.layer_decay is None else config.layer_decay,
    )
