"""What a run takes, and which part of a batch fits into a GPU, from its settings and the GPUs.

In: settings, the number and kind of GPUs. Out: plain records; nothing is read and no torch is imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.errors import ConfigError
from slip.config import TrainConfig
from slip.gpu_peaks import BY_MODEL
from slip.layout import shards_towers
from slip.memory_cost import Memory, computes_in_bf16, memory_of
from slip.model_cost import Piece, SampleFlops, pieces, sample_flops
from slip.schedule import total_steps

FITS = 0.92
"""Share of a GPU's memory that tensors may take: CUDA, NCCL and gaps between tensors need the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of GPU."""

    name: str
    """As slip.gpu_peaks calls it."""
    memory_mib: int
    """MiB that the driver reports."""

    @property
    def bf16(self) -> float:
        """Dense TFLOP/s."""
        peak = BY_MODEL[self.name].bf16
        assert peak is not None
        return peak

    @property
    def fp32(self) -> float:
        """Dense TFLOP/s without TF32."""
        return BY_MODEL[self.name].fp32


GPUS: dict[str, Gpu] = {
    "h100": Gpu(name="H100 SXM", memory_mib=81_559),
    "h100-pcie": Gpu(name="H100 PCIe", memory_mib=81_559),
    "h100-nvl": Gpu(name="H100 NVL", memory_mib=95_830),
    "h200": Gpu(name="H200 SXM", memory_mib=143_771),
    "b200": Gpu(name="B200", memory_mib=183_359),
    "a100": Gpu(name="A100", memory_mib=81_920),
    "a100-40": Gpu(name="A100", memory_mib=40_960),
    "l40s": Gpu(name="L40S", memory_mib=46_068),
    "l4": Gpu(name="L4", memory_mib=23_034),
    "a10": Gpu(name="A10", memory_mib=23_028),
    "rtx3090": Gpu(name="RTX 3090", memory_mib=24_576),
    "rtx4090": Gpu(name="RTX 4090", memory_mib=24_564),
    "rtxa6000": Gpu(name="RTX A6000", memory_mib=49_140),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Settings that fit where the given ones do not."""

    micro_batch: int
    activation_checkpointing: bool
    memory: Memory
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run takes."""

    pieces: tuple[Piece, ...]
    flops: SampleFlops
    rank_batch: int
    """Samples of a step on each GPU."""
    in_flight: int
    """Samples that pass the towers at a time on each GPU."""
    sharded: bool
    memory: Memory
    memory_limit: float
    """Bytes that tensors may take on a GPU."""
    suggestion: Suggestion | None
    """None where the settings fit, or nothing would."""
    steps: int
    samples: int
    """Of all steps."""
    hours: float

    @property
    def fits(self) -> bool:
        """Whether the settings fit into a GPU as they are."""
        return self.memory.total <= self.memory_limit


def _hours(config: TrainConfig, gpu: Gpu, num_gpus: int, mfu: float, text_length: int, samples: int) -> float:
    """Samples * model FLOPs * (hardware / model FLOPs) / (GPUs * peak * MFU).

    `mfu` is what the GPUs reach where nothing is computed twice. What is computed twice runs as fast, so it lengthens a
    run in proportion, and the MFU of such a run comes out lower by the same factor.
    """
    flops = sample_flops(config, text_length, ranks=num_gpus)
    peak = 1e12 * (gpu.bf16 if computes_in_bf16(config) else gpu.fp32)
    return samples * flops.model * flops.repeated / (num_gpus * peak * mfu) / 3600


def _with(config: TrainConfig, micro_batch: int, checkpointing: bool) -> TrainConfig:
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, micro_batch=micro_batch),
        model=dataclasses.replace(config.model, activation_checkpointing=checkpointing),
    )


def make_plan(
    config: TrainConfig, gpu: Gpu, num_gpus: int, *, epoch_samples: int, mfu: float, text_length: int
) -> RunPlan:
    """The plan of a run on `num_gpus` GPUs.

    Args:
        epoch_samples: samples of the data set.
        mfu: share of the GPUs' peak that training reaches where nothing is computed twice.
        text_length: tokens computed of a caption, on average.
    """
    batch = config.optim.global_batch
    if batch % num_gpus:
        raise ConfigError(f"--optim.global-batch is {batch}; it must be a multiple of --gpus, {num_gpus}")
    rank_batch, micro_batch = batch // num_gpus, config.optim.micro_batch
    if micro_batch > rank_batch:
        raise ConfigError(
            f"--optim.micro-batch {micro_batch} is more than a GPU has: {batch} samples on {num_gpus} GPUs; "
            "leave it out, or lower it"
        )
    steps = total_steps(config.optim, steps_per_epoch=epoch_samples / batch)
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    limit = FITS * gpu.memory_mib * 2**20

    def hours(settings: TrainConfig) -> float:
        return _hours(settings, gpu, num_gpus, mfu, text_length, steps * batch)

    def suggested() -> Suggestion | None:
        for checkpointing in sorted({config.model.activation_checkpointing, True}):
            size = 1 << (rank_batch.bit_length() - 1)
            while size:
                found = _with(config, 0 if size == rank_batch else size, checkpointing)
                memory = memory_of(found, num_gpus, text_length)
                if memory.total <= limit:
                    return Suggestion(
                        micro_batch=found.optim.micro_batch,
                        activation_checkpointing=checkpointing,
                        memory=memory,
                        hours=hours(found),
                    )
                size //= 2
        return None

    memory = memory_of(config, num_gpus, text_length)
    return RunPlan(
        pieces=pieces(config.model, config.objective),
        flops=sample_flops(config, text_length, ranks=num_gpus),
        rank_batch=rank_batch,
        in_flight=micro_batch or rank_batch,
        sharded=shards_towers(config, num_gpus, on_gpu=True),
        memory=memory,
        memory_limit=limit,
        suggestion=suggested() if memory.total > limit else None,
        steps=steps,
        samples=steps * batch,
        hours=hours(config),
    )
