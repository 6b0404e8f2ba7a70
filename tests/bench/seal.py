"""Sealing, verifying and opening a data set: how fast, per core.

Comes in: nothing; pictures are random bytes, made in a temporary folder.
Goes out: a table with samples sealed per CPU-second, bytes verified per CPU-second beside `sha256sum` of the same
file, and how long a manifest of 1,500 shards x 10,000 samples with one index, and with all of them, takes to open.

    python tests/bench/seal.py --folder /tmp

Every number is CPU time of one process, the kernel's included, except those in ms, which are elapsed time. The
indexes opened last are hard links to one: what is timed is reading from the page cache, checking and parsing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.config import BuildConfig  # noqa: E402
from pipeline.fetch.fetched import fetched_tar, outcomes_path  # noqa: E402
from pipeline.manifest import Manifest, Shard, load_manifest, read_index, write_manifest  # noqa: E402
from pipeline.records import OUTCOME_SCHEMA, SELECTION_SCHEMA  # noqa: E402
from pipeline.seal.seal import seal_unit  # noqa: E402
from pipeline.seal.shard import header, padded  # noqa: E402
from pipeline.seal.verify import check_shard  # noqa: E402
from pipeline.selection.selection import part_path  # noqa: E402

PICTURE_BYTES = 50_000
NUM_SHARDS = 1_500
_WORDS = (
    "a",
    "boat",
    "on",
    "the",
    "lake",
    "near",
    "our",
    "house",
    "in",
    "Zürich",
    "with",
    "some",
    "friends",
    "of",
    "mine",
)


def selection_row(i: int, draw: random.Random) -> dict[str, Any]:
    """A row with texts as long as Flickr's are."""
    return {
        "key": str(3_000_000_000 + (i * 7919) % 10_000_019),
        "row": i,
        "photo_id": 3_000_000_000 + (i * 7919) % 10_000_019,
        "line": i,
        "bucket_key": f"{draw.getrandbits(128):x}",
        "url": f"http://farm{i % 9}.staticflickr.com/{i % 7000}/{3_000_000_000 + i}_{draw.getrandbits(40):010x}.jpg",
        "title": " ".join(draw.choices(_WORDS, k=4)),
        "description": " ".join(draw.choices(_WORDS, k=30)),
        "title_usable": True,
        "description_usable": True,
        "user": f"user {draw.randrange(3000)}",
        "date_taken": f"2008-0{1 + i % 9}-01 12:00:{i % 60:02d}.0",
        "page_url": f"http://www.flickr.com/photos/{draw.randrange(10**8)}@N00/{3_000_000_000 + i}/",
        "license": "Attribution-NonCommercial License",
        "license_url": "http://creativecommons.org/licenses/by-nc/2.0/",
    }


def write_unit(work: Path, num_samples: int) -> None:
    """What select and fetch leave of one unit."""
    draw = random.Random(0)
    selection = [selection_row(i, draw) for i in range(num_samples)]
    outcomes = []
    for path in (part_path(work, 0), fetched_tar(work, 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with fetched_tar(work, 0).open("wb") as tar:
        for i, row in enumerate(selection):
            data = draw.randbytes(draw.randrange(PICTURE_BYTES // 2, PICTURE_BYTES * 3 // 2))
            name = f"{i:08d}.jpg"
            tar.write(header(name, len(data)))
            outcome = {column: row[column] for column in ("key", "row", "url")} | {"source": "url", "reason": ""}
            outcome |= {"detail": "", "attempts": [{"source": "url", "reason": "", "detail": ""}], "member": name}
            outcome |= {"offset": tar.tell(), "format": "jpg", "width": 500, "height": 375, "num_bytes": len(data)}
            outcomes.append(outcome | {"sha256": hashlib.sha256(data).hexdigest()})
            tar.write(data.ljust(padded(len(data)), b"\0"))
    pq.write_table(pa.Table.from_pylist(selection, schema=SELECTION_SCHEMA), part_path(work, 0))
    pq.write_table(pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA), outcomes_path(work, 0))


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of a call, those of the kernel and of its child processes included."""

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before = used()
    call()
    return used() - before


def elapsed_s(call: Callable[[], object]) -> float:
    """Seconds a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def bench_shard(folder: Path, num_samples: int, repeats: int) -> tuple[Shard, list[tuple[str, str]]]:
    """Seal one unit and verify its shard, the best of `repeats`."""
    config = BuildConfig(metadata=("rows",), subset_list="list", output=str(folder / "out"))
    seals, verifies, sums = [], [], []
    work = folder / "work"
    write_unit(work, num_samples)
    for _ in range(repeats):
        kept = folder / "kept"
        os.link(fetched_tar(work, 0), kept)  # sealing removes the other name
        seals.append(cpu_s(lambda: seal_unit(config, work, 0)))
        os.replace(kept, fetched_tar(work, 0))
    shard = seal_unit(config, work, 0)
    assert shard is not None
    path = folder / "out" / shard.name
    for _ in range(repeats):
        verifies.append(cpu_s(partial(check_shard, config.output, shard)))
        sums.append(cpu_s(partial(subprocess.run, ["sha256sum", path], check=True, stdout=subprocess.DEVNULL)))
    mb = shard.num_bytes / 1e6
    rows = [
        (f"seal, {mb / shard.num_samples * 1e3:.0f} kB a sample", f"{num_samples / min(seals):,.0f} samples/s"),
        ("seal", f"{mb / min(seals):,.0f} MB/s"),
        ("verify", f"{mb / min(verifies):,.0f} MB/s"),
        ("sha256sum", f"{mb / min(sums):,.0f} MB/s"),
        ("verify / sha256sum", f"{min(sums) / min(verifies):.2f}"),
    ]
    return shard, rows


def bench_open(folder: Path, shard: Shard) -> list[tuple[str, str]]:
    """Open a manifest of many shards, one index, and all indexes."""
    base = str(folder / "out")
    shards = []
    for number in range(1, NUM_SHARDS + 1):
        name = f"{number:05d}"
        os.link(folder / "out" / shard.index, folder / "out" / f"{name}.parquet")
        shards.append(replace(shard, name=f"{name}.tar", index=f"{name}.parquet"))
    kept = NUM_SHARDS * shard.num_samples
    manifest = Manifest(
        name="yfcc15m-openai",
        variant="openai",
        num_samples=kept,
        num_bytes=NUM_SHARDS * shard.num_bytes,
        funnel={"rows": kept, "kept": kept, "rejected": {}},
        settings={},
        shards=tuple(shards),
    )
    write_manifest(manifest, base)
    samples = f"{NUM_SHARDS:,} shards x {shard.num_samples:,} samples"
    open_s = min(elapsed_s(lambda: load_manifest(base)) for _ in range(5))
    index_s = min(elapsed_s(lambda: read_index(base, shards[7])) for _ in range(5))
    all_s = cpu_s(lambda: [read_index(base, entry) for entry in shards])
    return [
        (f"open manifest, {samples}", f"{open_s * 1e3:.0f} ms"),
        ("read one index", f"{index_s * 1e3:.1f} ms"),
        ("manifest and one index", f"{(open_s + index_s) * 1e3:.0f} ms"),
        (f"read all {NUM_SHARDS:,} indexes", f"{all_s:.1f} CPU-s"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None, help="where the temporary folder goes; needs about 2.5 GB")
    parser.add_argument("--samples", type=int, default=10_000, help="samples in the shard")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        shard, rows = bench_shard(Path(name), options.samples, options.repeats)
        rows += bench_open(Path(name), shard)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value:>16}")


if __name__ == "__main__":
    main()
