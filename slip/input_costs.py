"""What each part of the input pipeline costs, measured on samples in memory and on a whole loader.

In: encoded samples, or a manifest. Out: processor seconds and rates. Costs of single parts are processor time of one
thread, the least of several rounds, so other programs on the machine matter little; rates are wall time.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from slip.config import TrainConfig
from slip.data.decode import Picture, open_picture, shrink_for
from slip.data.device_augment import DeviceAugment
from slip.data.loader import Loader
from slip.data.opening import open_source
from slip.data.preparer import Preparer
from slip.data.samples import RawSample
from slip.data.source import Slot
from slip.data.view_maker import AugmentMode, fill_views
from slip.data.view_params import NUM_UNIFORMS, ViewKind, ViewParams, draw_params, params_row

ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One part of the pipeline."""

    what: str
    us: float
    """Microseconds of one core per sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A loader at work."""

    workers: int
    samples_per_s: float
    """Wall time."""
    cpu_us: float
    """Microseconds of all cores per sample, reading included."""


def least_us(work: Callable[[], object], num_samples: int, clock: Callable[[], float] = time.thread_time) -> float:
    """Microseconds per sample by `clock`: the least of some rounds, after one that is not counted.

    The default clock is the processor time of this thread.
    """
    work()
    taken = []
    for _ in range(ROUNDS):
        begin = clock()
        work()
        taken.append(clock() - begin)
    return min(taken) / num_samples * 1e6


def drawn_params(pictures: Sequence[Picture], kinds: Sequence[ViewKind], seed: int = 0) -> list[list[ViewParams]]:
    """Parameters of all views of each picture, the same for the same seed."""
    generator = np.random.Generator(np.random.Philox(seed))
    return [
        [draw_params(kind, p.width, p.height, generator.random(NUM_UNIFORMS).tolist()) for kind in kinds]
        for p in pictures
    ]


def _slots(samples: Sequence[RawSample]) -> list[Slot]:
    window: Future[Sequence[RawSample]] = Future()
    window.set_result(samples)
    return [Slot(window, number, sample.sample_id, 0) for number, sample in enumerate(samples)]  # type: ignore[arg-type]


def whole_cost(
    samples: Sequence[RawSample], kinds: tuple[ViewKind, ...], config: TrainConfig, *, colours: bool
) -> float:
    """Microseconds a sample for all that a decode thread does: draws, decoding, views, caption, tokens."""
    preparer = Preparer(config, kinds, colours=colours)
    batch = preparer.buffers(_slots(samples), pin=False)
    return least_us(lambda: preparer.fill(batch, range(len(samples))), len(samples))


def part_costs(
    samples: Sequence[RawSample], kinds: tuple[ViewKind, ...], config: TrainConfig, mode: AugmentMode
) -> list[Cost]:
    """What a decode thread does, part by part; parts that cannot be run alone are differences."""
    size, num = config.model.image_size, len(samples)
    config = replace(config, data=replace(config.data, augment=mode))
    pictures = [open_picture(sample.image) for sample in samples]
    params = drawn_params(pictures, kinds)
    outs = [np.empty((3, size, size), dtype=np.uint8) for _ in kinds]

    def decode() -> None:
        for picture, views in zip(pictures, params, strict=True):
            shrink = shrink_for(picture, [view.box for view in views], size) if mode == "fast" else 1
            picture.pixels(shrink)

    def fill(views_of: Sequence[Sequence[ViewParams]], *, colours: bool) -> float:
        def work() -> None:
            for picture, views in zip(pictures, views_of, strict=True):
                fill_views(picture, views, outs, mode=mode, colours=colours)

        return least_us(work, num)

    plain = [[ViewParams(box=view.box) for view in views] for views in params]
    decoding = least_us(decode, num)
    crops, all_of_it = fill(plain, colours=False), fill(params, colours=True)
    whole = whole_cost(samples, kinds, config, colours=True)
    return [
        Cost(what="decode", us=decoding),
        Cost(what="crops", us=crops - decoding),
        Cost(what="jitter, grey, blur, flip", us=all_of_it - crops),
        Cost(what="header, draws, caption, tokens", us=whole - all_of_it),
        Cost(what="one decode thread, all of it", us=whole),
    ]


def device_cost(
    kinds: tuple[ViewKind, ...], size: int, device: torch.device, dtype: torch.dtype, *, batch: int
) -> float:
    """Microseconds a sample that the device takes to finish the views of a batch (elapsed time)."""
    generator = np.random.Generator(np.random.Philox(0))
    augment = DeviceAugment(device, dtype=dtype)
    crops = torch.from_numpy(generator.integers(0, 256, (batch, 3, size, size), dtype=np.uint8)).to(device)
    rows = [params_row(draw_params("ssl", 500, 375, generator.random(NUM_UNIFORMS).tolist())) for _ in range(batch)]
    params_BP = torch.tensor(rows, dtype=torch.float32, device=device)

    def work() -> None:
        for kind in kinds:
            augment(crops, params_BP if kind == "ssl" else None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return least_us(work, batch, time.perf_counter)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def loader_pace(config: TrainConfig, kinds: tuple[ViewKind, ...], *, seconds: float, colours: bool) -> Pace:
    """A loader read as fast as it goes, for some seconds after its first batches."""
    source = open_source(config, 0, 1)
    batch, warm = config.optim.global_batch, config.data.prefetch_batches + 2
    with closing(Loader(config, source, kinds, colours=colours)) as loader:
        batches = loader.batches(0, batch * 10**9)
        for _ in range(warm):
            next(batches)
        begin, cpu, num = time.perf_counter(), _cpu_s(), 0
        while time.perf_counter() - begin < seconds or num == 0:
            next(batches)
            num += batch
        elapsed, used = time.perf_counter() - begin, _cpu_s() - cpu
        return Pace(workers=loader.workers, samples_per_s=num / elapsed, cpu_us=used / num * 1e6)


def memory_per_worker(samples: Sequence[RawSample], kinds: tuple[ViewKind, ...], config: TrainConfig) -> int:
    """Bytes that a decode thread takes at most while it prepares these samples, beside the batch it fills."""
    preparer = Preparer(config, kinds)
    batch = preparer.buffers(_slots(samples), pin=False)
    preparer.fill(batch, range(1))  # what is loaded once does not count
    tracemalloc.start()
    try:
        for row in range(len(samples)):
            preparer.fill(batch, range(row, row + 1))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
