"""Settings of training; the command line of `slip train` is read from them, with recipes as starting points.

Everything that decides the result of a run stands here and is stored in its checkpoints. What differs between
machines (world size, rank, device) does not: see `slip.distributed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import ConfigError

ObjectiveName = Literal["clip", "siglip", "simclr", "mocov3", "byol", "mim", "slip"]
SSLName = Literal["simclr", "mocov3", "byol", "mim"]
TowerName = Literal["tiny", "vits16", "vitb16", "vitl16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which samples a step sees, and how they get there."""

    manifest: tuple[str, ...] = ("data/yfcc15m-sample/manifest.json",)
    """Path or URL of the data set's manifest, written by pipeline/build_yfcc15m.py or `slip index`; several are mixed.
    A brace pattern of .tar files instead reads them without a manifest, and then nothing is exact."""
    ssl_manifest: tuple[str, ...] = ()
    """Manifests whose pictures the SSL terms of slip see instead of the captioned ones, in lock-step: each step takes
    as many of both. Captions there are not read. None: the same pictures."""
    weights: tuple[float, ...] = ()
    """Relative share of each manifest in the samples of a run, e.g. 3 1; none = by their sizes."""
    samples_per_epoch: int = 0
    """Samples that count as an epoch when tars are read without a manifest."""
    lanes: int = 0
    """Ordered streams an epoch is cut into. More lanes mix a batch from more places and hold more memory.
    0 = the largest divisor of the global batch that gives each lane 4 samples a batch, at most 256."""
    shuffle_window: int = 128
    """Samples of a lane that are shuffled together (one ranged read each)."""
    workers: int | Literal["auto"] = "auto"
    """Threads per process that decode and augment; 0 = none, batches are prepared when they are asked for.
    auto = as many as help and no more, found out in the first seconds."""
    augment: Literal["fast", "reference"] = "fast"
    """reference = every view by itself with Pillow, as published. fast = one decode for all views of a picture, crops
    by a compiled kernel or torch: the same parameters, nearly the same pixels, several times as many a second."""
    colours: Literal["auto", "workers", "device"] = "auto"
    """Where jitter, grey, blur and flip are done: by the threads, or batched on the device (augment fast only).
    auto = on a GPU if there is one, else by the threads."""
    prefetch_batches: int = 2
    """Batches prepared ahead of the one in use."""
    connections: int = 8
    """Ranged requests in flight per process."""
    prefetch_mb: int = 512
    """MB (10^6 bytes) of samples a process reads ahead, beyond the windows of the batches in preparation."""
    cache: str | None = None
    """Local folder that keeps what was read from a remote store, shared by all processes of a node. None: no cache."""
    cache_gb: float = 100.0
    """GB (10^9 bytes) the cache may take. A full one keeps what it has."""
    max_damaged: int = 0
    """Damaged samples tolerated (replaced and counted, over all processes) before the run stops."""
    stall_warn_s: float = 30.0
    """Seconds of waiting for a batch after which the log says which shard, offset and thread it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the towers. The text tower follows the image tower: tiny for `tiny`, else as published."""

    tower: TowerName = "vitb16"
    """Image tower: tiny (for demonstrations), or as published vits16 (MoCo v3's form: 12 heads), vitb16, vitl16."""
    image_size: int = 224
    """Side of the square crops in pixels."""
    context_length: int = 77
    """Tokens a caption is cut to, start and end token included."""
    ssl_hidden: int = 4096
    """Width of the SSL head's two hidden layers."""
    ssl_dim: int = 256
    """Width of the SSL embedding."""
    embed_dim: int = 512
    """Width of the shared image-text embedding."""
    masking: Literal["none", "random", "attentive"] = "none"
    """Patches the image tower is given in training: all of them; a random part (FLIP); or those to which the class
    token of a momentum tower attends most (A-CLIP). Evaluation always sees all."""
    mask_keep: float = 0.5
    """Share of the patches kept by `masking`."""
    momentum_scale: float = 1.0
    """Side of the views the momentum tower sees, as a share of image_size; 0.5 costs a quarter (A-CLIP's efficient
    form)."""
    mim_masked: float = 0.4
    """Share of the patches hidden from the image tower for objective mim."""
    drop_path: float = 0.0
    """Probability of leaving out a branch of the image tower's last block, linearly less before it."""
    activation_checkpointing: bool = False
    """Keep only what enters each block and compute the rest again for the gradient: less memory, a third more time."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks of both towers with torch.compile; auto = on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    name: ObjectiveName = "slip"
    """Image-text contrast: clip (softmax), siglip (sigmoid). Self-supervision: simclr, mocov3, byol, mim.
    slip = clip + ssl_scale * (sum of the terms named by ssl)."""
    ssl: tuple[SSLName, ...] = ("simclr",)
    """Self-supervised terms of slip."""
    ssl_scale: float = 1.0
    """Weight of the SSL terms in slip."""
    gather: Literal["exact", "paper"] = "exact"
    """Embeddings of other ranks in the image-text term: with their gradient, so that the number of ranks changes
    nothing, or without it, as in the published code (about half the gradient on 2 and more ranks)."""
    clip_view: Literal["clip", "ssl", "shared"] = "clip"
    """View matched with the caption: a view of its own with the weak (clip) or strong (ssl) augmentation; shared =
    every view of slip's SSL terms is matched with it, and there is no other (A-CLIP)."""
    ssl_temperature: float = 0.1
    """Temperature of simclr."""
    moco_temperature: float = 0.2
    """Temperature of mocov3."""
    momentum: float = 0.99
    """Share of itself the momentum tower keeps at the first step; rises to 1 by half a cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW with the published schedule: linear warm-up, then cosine, both counted in samples."""

    global_batch: int = 4096
    """Samples per optimizer step, over all ranks; must be a multiple of the world size."""
    micro_batch: int = 0
    """Samples of a rank that pass the towers at a time. The step stays that of the whole batch: contrast and batch norm
    see all of it, at the cost of a second forward pass. 0 = all at once."""
    epochs: float = 25.0
    """Passes over the manifest; a fraction ends within one."""
    lr: float = 3e-3
    """Peak learning rate."""
    lr_start: float = 1e-6
    """Learning rate at the first step."""
    lr_end: float = 1e-5
    """Learning rate at the last step."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up."""
    weight_decay: float = 0.1
    """Decoupled weight decay of parameters that are neither vectors nor named bias, ln or bn."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the two moments."""
    eps: float = 1e-8
    """AdamW's epsilon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Zero-shot evaluation during training."""

    zeroshot: str | None = None
    """Folder or URL of a labelled set in CLIP_benchmark's WebDataset layout (classnames.txt,
    zeroshot_classification_templates.txt, test/nshards.txt, test/0.tar ...). None: no evaluation."""
    every_epochs: int = 1
    """Evaluate at the end of every N-th epoch, and always at the end of training."""
    batch: int = 256
    """Pictures per forward pass and process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train CLIP, SimCLR or SLIP on sealed shards. Run the same command again to resume."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    output: str = "runs/slip"
    """Folder or URL of the run: config.json, metrics.jsonl, tensorboard/, checkpoints/."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the towers; auto = bf16 on a GPU, fp32 on a CPU. Losses are always float32."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several ranks: every rank keeps the whole model (ddp), or a part of the towers (fsdp, FSDP2).
    auto = fsdp on GPUs for vitl16, else ddp."""
    ema_decay: float = 0.0
    """Keep an average of the weights, of which so much stays at each step (0.9999 is usual), and evaluate it.
    0 = none."""
    max_skipped: int = 10
    """Steps whose loss or gradient is not finite that are left out (all ranks together, named in the log) before the
    run stops."""
    rank_timeout_s: float = 30.0
    """Seconds without a sign of life from a rank (a crashed process, a lost node, not a slow one) after which the
    others end, naming it."""
    wandb: str | None = None
    """Project in Weights & Biases that metrics also go to, where the package wandb is installed. None: nowhere."""
    ledger: bool = False
    """Note the samples of every step in OUTPUT/ledger, for `slip ledger verify` (some 2 bytes a sample)."""
    seed: int = 0
    """Seed of initialisation, sample order, caption choice and augmentation."""
    log_every: int = 10
    """Steps between log lines and metrics records."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is also written at the end and on SIGTERM or SIGUSR2."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    max_steps: int | None = None
    """Stop (with a checkpoint) after this many steps in all; the schedule is not changed by it."""

    def __post_init__(self) -> None:
        for name, value in (
            ("--optim.global-batch", self.optim.global_batch),
            ("--data.shuffle-window", self.data.shuffle_window),
            ("--data.connections", self.data.connections),
            ("--log-every", self.log_every),
            ("--checkpoint-every", self.checkpoint_every),
            ("--keep-checkpoints", self.keep_checkpoints),
            ("--eval.every-epochs", self.eval.every_epochs),
            ("--eval.batch", self.eval.batch),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        for name, value in (
            ("--data.workers", 0 if self.data.workers == "auto" else self.data.workers),
            ("--data.prefetch-batches", self.data.prefetch_batches),
            ("--data.prefetch-mb", self.data.prefetch_mb),
            ("--data.max-damaged", self.data.max_damaged),
            ("--optim.micro-batch", self.optim.micro_batch),
            ("--max-skipped", self.max_skipped),
        ):
            if value < 0:
                raise ConfigError(f"{name} is {value}; it must be at least 0")
        if self.data.augment == "reference" and self.data.colours == "device":
            raise ConfigError(
                "--data.colours device with --data.augment reference: the reference makes its colours with Pillow, in "
                "the threads; leave out one of the two"
            )
        for name, seconds in (
            ("--data.stall-warn-s", self.data.stall_warn_s),
            ("--rank-timeout-s", self.rank_timeout_s),
        ):
            if seconds <= 0:
                raise ConfigError(f"{name} is {seconds}; it must be positive")
        if self.optim.epochs <= 0:
            raise ConfigError(f"--optim.epochs is {self.optim.epochs}; it must be positive")
        if self.eval.zeroshot is not None and self.objective.name not in ("clip", "siglip", "slip"):
            raise ConfigError(
                f"--eval.zeroshot with objective {self.objective.name}: zero-shot evaluation needs a text tower"
            )
        self._check_objective()

    def _check_objective(self) -> None:
        objective, model = self.objective, self.model
        for name, share in (("--model.mask-keep", model.mask_keep), ("--model.mim-masked", model.mim_masked)):
            if not 0 < share < 1:
                raise ConfigError(f"{name} is {share}; it must be between 0 and 1")
        if not 0 < model.momentum_scale <= 1:
            raise ConfigError(f"--model.momentum-scale is {model.momentum_scale}; it must be above 0 and at most 1")
        for name, share in (("--ema-decay", self.ema_decay), ("--model.drop-path", model.drop_path)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name} is {share}; it must be at least 0 and below 1")
        if not 0 <= objective.momentum <= 1:
            raise ConfigError(f"--objective.momentum is {objective.momentum}; it must be from 0 to 1")
        if objective.name == "slip" and (not objective.ssl or len(set(objective.ssl)) < len(objective.ssl)):
            raise ConfigError(f"--objective.ssl is {objective.ssl}; name each SSL term of slip once, at least one")
        compares = objective.name == "slip" and set(objective.ssl) - {"mim"}
        if objective.clip_view == "shared" and not compares:
            raise ConfigError(
                "--objective.clip-view shared matches the two views that simclr, mocov3 or byol compare with the "
                "caption: it needs objective slip with one of these"
            )
        if self.data.ssl_manifest and (objective.name != "slip" or objective.clip_view == "shared"):
            raise ConfigError(
                "--data.ssl-manifest gives the SSL terms of slip pictures of their own: it needs objective slip, and "
                "not --objective.clip-view shared"
            )
