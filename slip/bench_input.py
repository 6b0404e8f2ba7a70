"""`slip bench input MANIFEST`: what the input pipeline costs on your shards and cores, part by part, in both modes.

Reads some samples of the data set, measures on them (`slip.input_costs`), then reads it through whole loaders.
Numbers go to standard output; with --views a PNG shows the same samples with the same parameters in both modes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch
import tyro

from pipeline import store
from pipeline.errors import ConfigError, InputError
from slip.command import run_verb
from slip.config import DataConfig, ModelConfig, ObjectiveConfig, ObjectiveName, OptimConfig, TrainConfig
from slip.data import kernel
from slip.data.decode import DamagedImageError, open_picture
from slip.data.plan import make_plan
from slip.data.samples import RawSample
from slip.data.sets import open_mix
from slip.data.view_maker import AugmentMode
from slip.data.view_params import ViewKind
from slip.data.worker_count import cores_of_this_rank
from slip.input_costs import Cost, Pace, device_cost, loader_pace, memory_per_worker, part_costs
from slip.inspect_data import read_samples
from slip.objectives.needs import needs_of
from slip.view_grid import view_grid_png

logger = logging.getLogger(__name__)

_MODES: tuple[AugmentMode, ...] = ("fast", "reference")
_VIEWED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchInputConfig:
    """What to measure on."""

    manifest: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MANIFEST")]
    """Path or URL of a manifest, or of the folder it is in."""
    samples: int = 256
    """Samples that are kept in memory to measure single parts on."""
    objective: ObjectiveName = "slip"
    """Whose views are made: slip = one CLIP view and two SSL views of each picture."""
    image_size: int = 224
    """Side of the views in pixels."""
    batch: int = 256
    """Samples of a batch."""
    workers: int | Literal["auto"] = "auto"
    """Decode threads of the loaders; auto = as many as help."""
    seconds: float = 5.0
    """Seconds each loader is read for, after its first batches."""
    gpu_rate: float = 1185.0
    """Samples a second that one GPU trains, for the cores it needs. Default: SLIP with ViT-B/16 at 40 % of an H100's
    dense bf16 rate."""
    views: str = ""
    """Path or URL of a PNG that shows 8 samples in both modes, replaced if there is one. "" = none."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        for name, value in (("--samples", self.samples), ("--image-size", self.image_size), ("--batch", self.batch)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        for name, positive in (("--seconds", self.seconds), ("--gpu-rate", self.gpu_rate)):
            if positive <= 0:
                raise ConfigError(f"{name} is {positive}; it must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that was measured."""

    parts: dict[AugmentMode, list[Cost]]
    loaders: dict[AugmentMode, Pace]
    device: str
    device_us: float
    """Elapsed microseconds a sample that the device takes for what follows the crops."""
    memory_per_worker: dict[AugmentMode, int]
    """Bytes."""


def _train_config(config: BenchInputConfig, mode: AugmentMode) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(manifest=(config.manifest,), workers=config.workers, augment=mode, max_damaged=10**9),
        model=ModelConfig(image_size=config.image_size),
        objective=ObjectiveConfig(name=config.objective),
        optim=OptimConfig(global_batch=config.batch),
    )


def _is_whole(sample: RawSample) -> bool:
    try:
        open_picture(sample.image).pixels()
    except DamagedImageError:
        return False
    return True


def _samples(config: BenchInputConfig) -> list[RawSample]:
    """Samples from the first batches of an epoch: they come from all over the data set."""
    mix = open_mix([config.manifest])
    count = min(config.samples, mix.num_samples)
    ids = make_plan(mix, seed=0, global_batch=count).batch(0)
    found = [
        sample for sample in read_samples(mix, ids.tolist()) if isinstance(sample, RawSample) and _is_whole(sample)
    ]
    if len(found) < count:
        logger.warning("%d of the %d samples that were read are damaged and left out", count - len(found), count)
    if not found:
        raise InputError(f"{config.manifest}: all {count} samples that were read are damaged; repair the data set")
    return found


def measure(config: BenchInputConfig) -> Findings:
    """Measure everything."""
    samples = _samples(config)
    kinds: tuple[ViewKind, ...] = needs_of(ObjectiveConfig(name=config.objective), ModelConfig()).views
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts: dict[AugmentMode, list[Cost]] = {}
    loaders: dict[AugmentMode, Pace] = {}
    memory: dict[AugmentMode, int] = {}
    for mode in _MODES:
        train_config = _train_config(config, mode)
        logger.info("measuring the parts of mode %s on %d samples", mode, len(samples))
        parts[mode] = part_costs(samples, kinds, train_config, mode)
        memory[mode] = memory_per_worker(samples[:32], kinds, train_config)
        logger.info("reading through a loader in mode %s for %g s", mode, config.seconds)
        # As training does it by default: with a GPU the threads make only crops.
        colours = mode == "reference" or device.type == "cpu"
        loaders[mode] = loader_pace(train_config, kinds, seconds=config.seconds, colours=colours)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    device_us = device_cost(kinds, config.image_size, device, dtype, batch=min(config.batch, 64))
    if config.views:
        store.write_bytes(config.views, view_grid_png(samples[:_VIEWED], kinds, config.image_size))
    return Findings(parts=parts, loaders=loaders, device=str(device), device_us=device_us, memory_per_worker=memory)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, the first one to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def report(found: Findings, config: BenchInputConfig) -> str:
    """The table for people."""
    needed = f"cores for {config.gpu_rate:,.0f}/s"
    rows = [("", "fast, us a sample", "reference", "ratio", "fast, samples/s a core", needed)]
    for fast, slow in zip(*(found.parts[mode] for mode in _MODES), strict=True):
        rows.append(
            (
                fast.what,
                f"{fast.us:,.0f}",
                f"{slow.us:,.0f}",
                f"{slow.us / fast.us:.1f}" if fast.us > 0 else "-",
                f"{1e6 / fast.us:,.0f}" if fast.us > 0 else "-",
                f"{config.gpu_rate * fast.us / 1e6:.1f}",
            )
        )
    fast_pace, slow_pace = (found.loaders[mode] for mode in _MODES)
    rows.append(
        (
            "loader end to end, reading included",
            f"{fast_pace.cpu_us:,.0f}",
            f"{slow_pace.cpu_us:,.0f}",
            f"{slow_pace.cpu_us / fast_pace.cpu_us:.1f}",
            f"{1e6 / fast_pace.cpu_us:,.0f}",
            f"{config.gpu_rate * fast_pace.cpu_us / 1e6:.1f}",
        )
    )
    lines = _table(rows)
    lines += [
        "",
        *(
            f"loader, {mode}: {pace.samples_per_s:,.0f} samples/s with {pace.workers} of {cores_of_this_rank()} cores "
            f"decoding, {found.memory_per_worker[mode] / 1e6:.1f} MB a thread beside its batch"
            for mode, pace in found.loaders.items()
        ),
        f"jitter, grey, blur, flip and normalising on the device ({found.device}), in batches: "
        f"{found.device_us:,.0f} us a sample (elapsed)",
        "crops of the fast mode: "
        + ("the compiled kernel" if kernel.available() else "torch; the kernel was not built"),
    ]
    if config.views:
        lines.append(f"views of both modes are shown in {config.views}")
    return "\n".join(lines) + "\n"


def parse(argv: Sequence[str]) -> BenchInputConfig:
    """Settings from a command line."""
    return tyro.cli(
        BenchInputConfig,
        args=list(argv),
        prog="slip bench input",
        config=(tyro.conf.FlagCreatePairsOff,),
        description=(
            "Say what decoding, augmenting and tokenizing cost on your samples and cores, in the fast and in the "
            "reference mode, and how many cores a GPU needs beside it. Parts: processor microseconds (us) of one "
            "core a sample. MB are 10^6 bytes."
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `slip bench input`; 0 done, 1 error, 2 usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["input"]:
        asked_help = words[:1] in (["-h"], ["--help"])
        text = "usage: slip bench input MANIFEST [options]\n\nslip bench input --help explains the options.\n"
        (sys.stdout if asked_help else sys.stderr).write(text)
        return 0 if asked_help else 2

    def work() -> int:
        config = parse(words[1:])
        found = measure(config)
        sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n" if config.json else report(found, config))
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
