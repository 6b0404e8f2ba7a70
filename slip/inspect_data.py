"""`slip inspect MANIFEST...`: what is in sealed data sets, how well a run mixes them, and a look at some samples.

Reads manifests, and for the picture the indexes and bytes of a few samples; no torch, no run. Numbers go to
standard output (`slip.inspect_report`), the samples of an epoch's first batch into a PNG (`slip.sample_grid`).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from pipeline import store
from pipeline.errors import ConfigError
from pipeline.manifest import ShardIndex, read_index
from slip.command import run_verb
from slip.data.decode import DamagedImageError, decode_rgb
from slip.data.plan import Plan, make_plan
from slip.data.samples import DamagedSample, RawSample, cut_sample
from slip.data.sets import Mix, PlacedShard, open_mix
from slip.data.shuffle_quality import epoch_steps, measure
from slip.inspect_report import report_data, report_text, run_facts, set_facts
from slip.sample_grid import Tile, grid_png

logger = logging.getLogger(__name__)

_PUBLISHED_BATCH = 4096
_STEPS_AT_LEAST = 8
_READERS = 8
_MOST_SAMPLES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig:
    """What to look at. Settings of a run as in `slip train`, so that its order of samples is the one measured."""

    manifests: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST...")]
    """Paths or URLs of manifests, or of the folders they are in."""
    weights: tuple[float, ...] = ()
    """Relative share of each data set in a batch, one number for each manifest. None given: by their sizes."""
    global_batch: int = 0
    """Samples per optimizer step over all processes. 0 = the published 4096, halved until every data set gives at
    least 8 steps an epoch."""
    lanes: int = 0
    """Ordered streams an epoch is cut into. 0 = as many as slip train takes."""
    shuffle_window: int = 128
    """Samples of a lane that are shuffled together."""
    seed: int = 0
    """Seed of the order."""
    epoch: int = 0
    """The epoch to measure and to take samples from, counted from 0."""
    steps: int = 64
    """Batches to measure, spread evenly over the epoch."""
    samples: int = 32
    """Samples to show, spread evenly over the epoch's first batch."""
    grid: str = "inspect.png"
    """Path or URL of the picture of these samples, replaced if there is one. "" = none."""
    json: bool = False
    """Print JSON instead of tables, with the captions of the samples."""

    def __post_init__(self) -> None:
        if not self.manifests:
            raise ConfigError("no manifest given; name at least one, e.g. slip inspect data/yfcc15m-sample")
        for name, value, least in (
            ("--global-batch", self.global_batch, 0),
            ("--lanes", self.lanes, 0),
            ("--shuffle-window", self.shuffle_window, 1),
            ("--epoch", self.epoch, 0),
            ("--steps", self.steps, 1),
            ("--samples", self.samples, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if self.samples > _MOST_SAMPLES:
            raise ConfigError(f"--samples is {self.samples}; a picture of more than {_MOST_SAMPLES} cannot be read")


def fitting_batch(mix: Mix) -> int:
    """The published batch, halved until every data set lasts for 8 steps an epoch: 640 samples -> 64."""
    most = min(float(m.num_samples / w) for m, w in zip(mix.manifests, mix.weights, strict=True)) / _STEPS_AT_LEAST
    batch = _PUBLISHED_BATCH
    while batch > max(most, 1):
        batch //= 2
    return batch


def _read_sample(placed: PlacedShard, row: int, index: ShardIndex) -> RawSample | DamagedSample:
    offset, size = int(index.offset[row]), int(index.size[row])
    data = store.read_range(placed.url, offset, size)
    detail = index.damage(row, data)
    if not detail:
        return cut_sample(memoryview(data), placed.first_id + row, placed.url, index, row)
    return DamagedSample(
        sample_id=placed.first_id + row,
        shard=placed.url,
        offset=offset,
        key=index.key(row),
        detail=detail,
    )


def read_samples(mix: Mix, sample_ids: Sequence[int]) -> list[RawSample | DamagedSample]:
    """The samples with these ids, digests checked; StoreError or ShardError when a shard or index cannot be read."""

    @lru_cache(maxsize=_READERS)
    def index_of(placed: PlacedShard) -> ShardIndex:
        return read_index(placed.index_base, placed.shard)

    def read(sample_id: int) -> RawSample | DamagedSample:
        placed, row = mix.find(sample_id)
        return _read_sample(placed, row, index_of(placed))

    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        return list(pool.map(read, sample_ids))


def _caption(sample: RawSample | DamagedSample) -> str:
    """All texts training draws from."""
    return "" if isinstance(sample, DamagedSample) else " / ".join(sample.captions)


def _shown(sample: RawSample | DamagedSample) -> str:
    return _caption(sample) or ("" if isinstance(sample, DamagedSample) else "(no caption)")


def _look(sample: RawSample | DamagedSample) -> tuple[Image.Image | None, str]:
    """The picture, or None and what is wrong."""
    if isinstance(sample, DamagedSample):
        return None, sample.detail
    try:
        return decode_rgb(sample.image), ""
    except DamagedImageError as error:
        return None, str(error)


def _first_batch(plan: Plan, epoch: int, count: int) -> list[int]:
    """Ids of `count` samples spread evenly over the first batch of an epoch."""
    step = epoch_steps(plan.num_samples, plan.global_batch, epoch).start
    ids = plan.batch(step * plan.global_batch)
    count = min(count, len(ids))
    # Spread, because samples of one lane stand side by side in a batch.
    return [int(ids[i]) for i in np.arange(count) * len(ids) // count]


def look_at_samples(mix: Mix, plan: Plan, config: InspectConfig) -> list[dict[str, Any]]:
    """Read some samples of the first batch, draw them into `config.grid`, and say what they are."""
    samples = read_samples(mix, _first_batch(plan, config.epoch, config.samples))
    looks = [_look(sample) for sample in samples]
    tiles = [
        Tile(image=image, damage=damage, caption=_shown(s), labels=(f"id {s.sample_id}", f"key {s.key}"))
        for s, (image, damage) in zip(samples, looks, strict=True)
    ]
    names = " + ".join(dict.fromkeys(f"{m.name} ({m.variant})" for m in mix.manifests))
    title = f"{names}: {len(tiles):,} of the {plan.global_batch:,} samples of the first batch of epoch {config.epoch}"
    store.write_bytes(config.grid, grid_png(tiles, title))
    for sample, (_, damage) in zip(samples, looks, strict=True):
        if damage:
            logger.warning("%s: sample %s at byte %d is damaged: %s", sample.shard, sample.key, sample.offset, damage)
    return [
        {
            "id": s.sample_id,
            "key": s.key,
            "shard": s.shard,
            "offset": s.offset,
            "caption": _caption(s),
            "damage": damage,
        }
        for s, (_, damage) in zip(samples, looks, strict=True)
    ]


def inspect(config: InspectConfig) -> str:
    """Do all of it; what to print."""
    mix = open_mix(config.manifests, config.weights)
    plan = make_plan(
        mix,
        seed=config.seed,
        global_batch=config.global_batch or fitting_batch(mix),
        lanes=config.lanes,
        shuffle_window=config.shuffle_window,
    )
    logger.info("measuring %d batches of %d samples", config.steps, plan.global_batch)
    sets, run, quality = set_facts(mix), run_facts(mix, plan), measure(plan, epoch=config.epoch, steps=config.steps)
    samples = look_at_samples(mix, plan, config) if config.grid else []
    if config.json:
        content = report_data(sets, run, quality) | {"grid": config.grid or None, "samples": samples}
        return json.dumps(content, indent=1) + "\n"
    damaged = sum(bool(sample["damage"]) for sample in samples)
    shown = f"\n{len(samples)} samples, {damaged} of them damaged, are shown in {config.grid}\n" if config.grid else ""
    return report_text(sets, run, quality) + shown


def parse(argv: Sequence[str]) -> InspectConfig:
    """Settings from a command line."""
    return tyro.cli(
        InspectConfig,
        args=list(argv),
        prog="slip inspect",
        config=(tyro.conf.FlagCreatePairsOff,),
        description=(
            "Say what is in sealed data sets and how well a run mixes their samples, each measure beside that of a "
            "perfectly random order, and draw some samples. GB are 10^9 bytes; steps are optimizer steps; a place is a "
            "group of samples at most a shuffle window apart in the data set; neighbours lie side by side in a shard."
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect; 0 done, 1 error, 2 usage, 130 interrupted."""

    def work() -> int:
        try:
            sys.stdout.write(inspect(parse(sys.argv[1:] if argv is None else argv)))
        except ConfigError as error:
            # The plan names these settings as slip train does.
            raise ConfigError(str(error).replace("--optim.", "--").replace("--data.", "--")) from error
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
