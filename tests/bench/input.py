"""The input pipeline against the published one: processor time of its parts, whole loaders, pixels, stored sizes.

Comes in: a folder of photographs (JPEG), recoded to the sizes that matter. Goes out: tables; ratios are of the least of
rounds taken by turns in one process.

    python tests/bench/input.py --photos FOLDER --parts a,b,c,d,e

  a  what one decode thread does for a sample: fast mode with the compiled kernel and without it, against the reference
     mode on Pillow, one core
  b  whole loaders on shards on disk, tokens and batching included, --workers each: ours in both modes, and the
     published recipe (tests/bench/published_recipe.py) in a webdataset loader with as many worker processes
  c  the device part on this machine's CPU
  d  pixels of the fast mode against the reference at the same parameters, with and without shrinking in the DCT domain
  e  photographs stored smaller: bytes, time, and how far their views are from those of the originals
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import PIL
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.fetch.resize import reduce_picture  # noqa: E402
from slip.config import DataConfig, ModelConfig, OptimConfig, TrainConfig  # noqa: E402
from slip.data import kernel  # noqa: E402
from slip.data.decode import open_picture, shrink_for  # noqa: E402
from slip.data.loader import Loader  # noqa: E402
from slip.data.opening import open_source  # noqa: E402
from slip.data.samples import RawSample  # noqa: E402
from slip.data.view_maker import AugmentMode, fill_views  # noqa: E402
from slip.data.view_params import ViewKind, ViewParams  # noqa: E402
from slip.input_costs import device_cost, drawn_params, part_costs, whole_cost  # noqa: E402
from tests.bench import published_recipe  # noqa: E402
from tests.tiny_data import write_set  # noqa: E402

KINDS: tuple[ViewKind, ...] = ("clip", "ssl", "ssl")
MODES: tuple[AugmentMode, ...] = ("reference", "fast")
SIZE = 224
BATCH = 64
CAPTION = "Sailing boats on the lake of Zürich, taken from the bridge on a windy afternoon in spring"
# name: (which side, pixels)
STORED = {"long side 500": ("long", 500), "short side 256": ("short", 256), "long side 1024": ("long", 1024)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure and on how much."""

    photos: Path
    parts: str
    rounds: int
    seconds: float
    workers: int
    num: int


def recoded(path: Path, side: str, pixels: int, quality: int = 87) -> bytes:
    """A photograph with this long or short side; Flickr's sizes come from larger originals, so enlarging is rare."""
    image = Image.open(path).convert("RGB")
    scale = pixels / (max(image.size) if side == "long" else min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def raw_sample(number: int, image: bytes) -> RawSample:
    """As a shard would give it."""
    return RawSample(sample_id=number, shard="", offset=0, key=str(number), image=image, text=CAPTION, json=b"")


def config_of(mode: AugmentMode, *, manifest: str = "", workers: int = 0) -> TrainConfig:
    """Settings of the published recipe, in batches of 64."""
    return TrainConfig(
        data=DataConfig(manifest=(manifest,), augment=mode, workers=workers),
        model=ModelConfig(image_size=SIZE),
        optim=OptimConfig(global_batch=BATCH),
    )


@contextmanager
def without_kernel() -> Iterator[None]:
    """As where it was not built."""
    with mock.patch.object(kernel, "available", return_value=False):
        yield


def bench_thread(samples: Sequence[RawSample], rounds: int) -> dict[str, list[float]]:
    """Part a: microseconds a sample, by turns."""

    def pure(colours: bool) -> float:
        with without_kernel():
            return whole_cost(samples, KINDS, config_of("fast"), colours=colours)

    ways: dict[str, Callable[[], float]] = {
        "reference, Pillow": lambda: whole_cost(samples, KINDS, config_of("reference"), colours=True),
        "fast, crops only": lambda: whole_cost(samples, KINDS, config_of("fast"), colours=False),
        "fast, colours too": lambda: whole_cost(samples, KINDS, config_of("fast"), colours=True),
        "fast without the kernel, crops only": lambda: pure(False),
        "fast without the kernel, colours too": lambda: pure(True),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def _pace(batches: Iterator[object], seconds: float, batch: int) -> float:
    """Samples per second after the first batches."""
    for _ in range(6):
        next(batches)
    begin, num = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        num += batch
    return num / (time.perf_counter() - begin)


def bench_loaders(folder: Path, photos: Sequence[bytes], options: Options) -> dict[str, list[float]]:
    """Part b: samples per second, by turns."""
    text = CAPTION.encode()
    write_set(folder, [500] * 6, lambda n: {"jpg": photos[n % len(photos)], "json": b"{}", "txt": text})
    manifest, pattern = str(folder / "manifest.json"), str(folder / "{00000..00005}.tar")

    def ours(mode: AugmentMode, *, colours: bool) -> float:
        config = config_of(mode, manifest=manifest, workers=options.workers)
        with closing(Loader(config, open_source(config, 0, 1), KINDS, colours=colours)) as loader:
            return _pace(loader.batches(0, BATCH * 10**6), options.seconds, BATCH)

    def published() -> float:
        return _pace(
            published_recipe.batches(pattern, size=SIZE, batch=BATCH, workers=options.workers), options.seconds, BATCH
        )

    ways: dict[str, Callable[[], float]] = {
        "published recipe, webdataset, worker processes": published,
        "ours, reference": lambda: ours("reference", colours=True),
        "ours, fast, colours too": lambda: ours("fast", colours=True),
        "ours, fast, crops only": lambda: ours("fast", colours=False),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 10 * np.log10(255**2 / error) if error else np.inf


def views_of(data: bytes, params: Sequence[ViewParams], mode: AugmentMode, *, colours: bool) -> list[np.ndarray]:
    """(3, S, S) each."""
    outs = [np.empty((3, SIZE, SIZE), dtype=np.uint8) for _ in params]
    fill_views(open_picture(data), params, outs, mode=mode, colours=colours)
    return outs


def _summary(values: Sequence[float]) -> str:
    low, middle = np.percentile(values, [5, 50])
    return f"median {middle:.1f} dB, 5th percentile {low:.1f}, worst {min(values):.1f}"


def bench_pixels(photos: Sequence[bytes]) -> list[str]:
    """Part d."""
    found: dict[str, list[float]] = {}
    draws = drawn_params([open_picture(data) for data in photos], KINDS)
    for data, params in zip(photos, draws, strict=True):
        plain = [ViewParams(box=view.box) for view in params]
        shrink = shrink_for(open_picture(data), [view.box for view in plain], SIZE)
        size = "full size" if shrink == 1 else "shrunk in the DCT domain"
        for name, views, colours in (("crops", plain, False), ("whole views", params, True)):
            reference = views_of(data, views, "reference", colours=True)
            fast = views_of(data, views, "fast", colours=colours)
            with without_kernel():
                pure = views_of(data, views, "fast", colours=colours)
            for how, other in (("kernel", fast), ("torch", pure)):
                key = f"{name}, {size}, {how}"
                found.setdefault(key, []).extend(psnr(a, b) for a, b in zip(reference, other, strict=True))
    return [f"{key} ({len(values)} views): {_summary(values)}" for key, values in found.items()]


def bench_stored(paths: Sequence[Path], side: int, rounds: int) -> list[str]:
    """Part e: originals of 1024 pixels against the same stored with a shorter side of `side`."""
    originals = [recoded(path, "long", 1024) for path in paths]
    stored = [reduce_picture(Image.open(io.BytesIO(data)), side)[0] for data in originals]
    lines = []
    for name, photos in (("long side 1024", originals), (f"short side {side}", stored)):
        samples = [raw_sample(i, data) for i, data in enumerate(photos)]
        cost = min(whole_cost(samples, KINDS, config_of("fast"), colours=False) for _ in range(rounds))
        lines.append(f"{name}: {statistics.mean(map(len, photos)) / 1e3:.0f} kB, {cost:.0f} us (fast, crops only)")
    found: dict[str, list[float]] = {"clip": [], "ssl": []}
    smaller = 0
    for before, after in zip(originals, stored, strict=True):
        one, other = open_picture(before), open_picture(after)
        (params,) = drawn_params([one], KINDS)
        scale = (other.width / one.width, other.height / one.height)
        moved = [ViewParams(box=tuple(round(e * scale[i % 2]) for i, e in enumerate(p.box))) for p in params]  # type: ignore[arg-type]
        smaller += sum(min(m.box[2] - m.box[0], m.box[3] - m.box[1]) < SIZE for m in moved)
        pairs = zip(
            views_of(before, [ViewParams(box=p.box) for p in params], "reference", colours=True),
            views_of(after, moved, "reference", colours=True),
            strict=True,
        )
        for kind, (a, b) in zip(KINDS, pairs, strict=True):
            found[kind].append(psnr(a, b))
    lines += [f"{kind} views against those of the originals: {_summary(values)}" for kind, values in found.items()]
    lines.append(f"crops with a side below {SIZE} pixels: {smaller / (3 * len(paths)):.0%}")
    return lines


def _table(found: dict[str, list[float]], base: str, *, less_is_better: bool) -> list[str]:
    pick = min if less_is_better else statistics.median
    best = {name: pick(values) for name, values in found.items()}
    unit = "us a sample" if less_is_better else "samples/s"
    return [
        f"  {name:<48} {value:9,.0f} {unit}   x {best[base] / value if less_is_better else value / best[base]:5.2f}"
        for name, value in best.items()
    ]


def measure(options: Options) -> None:
    """Measure and print."""
    paths = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in {".jpg", ".jpeg"})[: options.num]
    parts = set(options.parts.split(","))
    print(
        f"{len(paths)} photographs, kernel {'built' if kernel.available() else 'not built'}, Pillow {PIL.__version__}"
    )
    torch.set_num_threads(1)
    for name, (side, pixels) in STORED.items():
        if not parts & set("abd"):
            break
        photos = [recoded(path, side, pixels) for path in paths]
        samples = [raw_sample(i, data) for i, data in enumerate(photos)]
        print(f"\n{name}: {statistics.mean(map(len, photos)) / 1e3:.0f} kB")
        if "a" in parts:
            found = bench_thread(samples, options.rounds)
            print("\n".join(_table(found, "reference, Pillow", less_is_better=True)))
            for mode in MODES:
                costs = part_costs(samples, KINDS, config_of(mode), mode)
                print(f"  {mode}: " + ", ".join(f"{cost.what} {cost.us:.0f}" for cost in costs))
        if "b" in parts:
            with tempfile.TemporaryDirectory() as folder:
                found = bench_loaders(Path(folder), photos, options)
            base = "published recipe, webdataset, worker processes"
            print("\n".join(_table(found, base, less_is_better=False)))
        if "d" in parts:
            print("  " + "\n  ".join(bench_pixels(photos)))
    if "c" in parts:
        for threads in (1, options.workers):
            torch.set_num_threads(threads)
            us = device_cost(KINDS, SIZE, torch.device("cpu"), torch.float32, batch=BATCH)
            print(f"\ndevice part on the CPU, {threads} threads: {us / 1e3:.1f} ms a sample")
    if "e" in parts:
        torch.set_num_threads(1)
        for stored in (256, 288, 320):
            print(f"\nstored with a shorter side of {stored}")
            print("  " + "\n  ".join(bench_stored(paths, stored, options.rounds)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--parts", default="a,b,c,d,e")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each loader is read for")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--num", type=int, default=150, help="photographs used")
    measure(Options(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
