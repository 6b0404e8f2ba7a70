"""Streaming raw samples: how fast, how soon, and at what cost, against what else could read the same bytes.

Comes in: nothing; pictures are random bytes. Goes out: a table. Ratios are of medians of runs taken by turns.

    python tests/bench/streaming.py --folder /tmp --parts a,b,c,d,e,f

  a  from S3, checksums compared, against obstore alone (whole objects, or ranges of 8 MB: the faster of the two) on as
     many connections, counting bytes only; with the server on the same cores, more connections than cores measure who
     uses less of the processor
  b  from local disk against the webdataset library on the same tars, nothing decoded
  c  from opening the manifest to the first batch, on S3, 1,500 shards x 10,000 samples
  d  the same on local disk at random places of the epoch; and the plan of the whole epoch
  e  resident memory over 10^6 samples from S3
  f  from S3 through a proxy that breaks 1 % of the bodies by a reset, cuts 1 % short and answers 1 % with 503 in bursts
     of 10, against the same proxy without faults; every sample must come once

The S3 server is Ceph on this machine (tests/s3), so client and server share its cores. Needs 10 GB of disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from slip.data.plan import make_plan  # noqa: E402
from slip.data.samples import RawSample  # noqa: E402
from slip.data.sets import open_mix  # noqa: E402
from slip.data.stream import SampleReader  # noqa: E402
from tests.bench import streaming_data as data  # noqa: E402
from tests.bench.streaming_rates import (  # noqa: E402
    BATCH,
    CONNECTIONS,
    Pace,
    checked_rate,
    cpu_s,
    delivered,
    raw_rate,
    reader_rate,
    webdataset_rate,
)
from tests.faults.s3_faults import Faults  # noqa: E402
from tests.faults.s3_proxy import FaultProxy  # noqa: E402

PICTURE_BYTES = 50_000
TINY_PICTURE_BYTES = 200
NUM_SHARDS = 1_500
Rows = list[tuple[str, str]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure and on how much."""

    folder: Path | None
    parts: str
    rounds: int
    shards: int
    samples: int
    full_samples: int
    full_shards: int
    port: int


def fresh(function: Callable[..., T], *args: object) -> T:
    """The function's value in a process of its own: memory, connections and caches begin empty."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def by_turns(rounds: int, calls: dict[str, Callable[[], Pace]]) -> dict[str, Pace]:
    """The medians of what each call returns, called by turns."""
    found: dict[str, list[Pace]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return {name: Pace(*map(statistics.median, zip(*paces, strict=True))) for name, paces in found.items()}


def shown(pace: Pace) -> str:
    """For the table."""
    return f"{pace.per_s:,.0f} samples/s, {pace.cpu_us:,.0f} CPU-us each"


def bench_s3(url: str, rounds: int, num_shards: int) -> Rows:
    """Part a."""
    mix, rows = open_mix([url]), []
    mb = mix.num_bytes / mix.num_samples / 1e6
    for connections in (1, 2, 4, CONNECTIONS):
        num = num_shards * mix.shards[0].shard.num_samples
        rates = by_turns(
            rounds,
            {
                "ours": partial(reader_rate, mix, num, connections),
                "obstore, objects": partial(raw_rate, mix, num_shards, connections, whole=True),
                "obstore, 8 MB ranges": partial(raw_rate, mix, num_shards, connections, whole=False),
            },
        )
        rows += [(f"S3 x {connections}, {name}", f"{p.per_s * mb:,.0f} MB/s, {shown(p)}") for name, p in rates.items()]
        best = max(pace.per_s for name, pace in rates.items() if name != "ours")
        rows.append((f"S3 x {connections}, ours / best raw client", f"{rates['ours'].per_s / best:.2f}"))
    return rows


def bench_local(url: str, rounds: int, num_shards: int) -> Rows:
    """Part b."""
    mix = open_mix([url])
    num = num_shards * mix.shards[0].shard.num_samples
    rates = by_turns(
        rounds,
        {"ours": partial(reader_rate, mix, num, CONNECTIONS), "webdataset": partial(webdataset_rate, mix, num_shards)},
    )
    rows = [(f"local disk, {name}", shown(pace)) for name, pace in rates.items()]
    return [*rows, ("ours / webdataset", f"{rates['ours'].per_s / rates['webdataset'].per_s:.2f}")]


def first_batch_s(url: str, batch: int, seed: int, place: float) -> tuple[float, float]:
    """Seconds and CPU seconds from opening the manifest to the first batch, `place` (0 to 1) in the epoch."""
    begin, before_s = time.perf_counter(), cpu_s()
    mix = open_mix([url])
    plan = make_plan(mix, seed=seed, global_batch=batch)
    samples = int(place * plan.num_samples) // batch * batch
    with closing(SampleReader(mix, plan, connections=CONNECTIONS)) as reader:
        reader.start(samples, samples + 100 * batch)
        for slot in reader.next_batch():
            assert isinstance(slot.window.result()[slot.number], RawSample)
        return time.perf_counter() - begin, cpu_s() - before_s


def bench_first_batch(url: str, name: str, rounds: int, *, resumed: bool) -> Rows:
    """Part c, and the first half of part d."""
    draw, rows = random.Random(0), []
    for batch in (256, 4096):
        places = [draw.random() if resumed else 0.0 for _ in range(rounds)]
        costs = [fresh(first_batch_s, url, batch, seed, place) for seed, place in enumerate(places)]
        (median, cpu), worst = (statistics.median(column) for column in zip(*costs, strict=True)), max(costs)[0]
        rows.append((f"{name}, batch {batch}: median, worst", f"{median:.2f} s, {worst:.2f} s; {cpu:.2f} CPU-s"))
    return rows


def memory_kb(field: str) -> int:
    """Resident memory of this process: VmRSS is what it has, VmHWM the most it ever had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def plan_cost(url: str) -> tuple[float, float, float, float]:
    """Seconds to plan a batch and to compute an epoch's order; MB of the order and at most while computing it."""
    mix = open_mix([url])
    before = memory_kb("VmRSS")
    begin = time.perf_counter()
    plan = make_plan(mix, seed=0, global_batch=4096)
    plan.runs(plan.num_samples // 2)
    one = time.perf_counter()
    order = plan.epoch_order(0, 0)
    end = time.perf_counter()
    peak = memory_kb("VmHWM") - before
    return one - begin, end - one, order.nbytes / 1e6, peak / 1e3


def bench_resume(url: str, rounds: int) -> Rows:
    """Part d."""
    rows = bench_first_batch(url, "local, resumed at random", rounds, resumed=True)
    one_s, order_s, order_mb, peak_mb = fresh(plan_cost, url)
    return [
        *rows,
        ("plan and one batch of it", f"{one_s * 1e3:.0f} ms"),
        ("order of an epoch", f"{order_s:.2f} s, {order_mb:.0f} MB, at most {peak_mb:.0f} MB"),
    ]


def bench_memory(url: str) -> Rows:
    """Part e."""
    mix = open_mix([url])
    plan = make_plan(mix, seed=0, global_batch=BATCH)
    found, begin = [], time.perf_counter()
    with closing(SampleReader(mix, plan, connections=CONNECTIONS, prefetch_bytes=64 << 20)) as reader:
        for number, _ in enumerate(delivered(reader, 0, -(-1_000_000 // BATCH) * BATCH), 1):
            if number % 50_000 == 0:
                found.append(memory_kb("VmRSS"))
        rate = number / (time.perf_counter() - begin)
    # The first 10^5 fill the read-ahead.
    slope = np.polyfit(np.arange(len(found) - 2) / 2, found[2:], 1)[0]
    return [
        ("resident after 10^5, 10^6 samples", f"{found[1] / 1e3:.1f}, {found[-1] / 1e3:.1f} MB"),
        ("slope per 10^5 samples", f"{slope:+.0f} kB"),
        ("tiny samples from S3", f"{rate:,.0f} samples/s"),
    ]


def bench_faults(url: str, rounds: int) -> Rows:
    """Part f."""
    faults = Faults(seed=1, resets=0.01, truncated=0.01, errors=0.01, burst=10)
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], faults) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        mix = open_mix([url])

        def rate(switch: Callable[[], None]) -> Pace:
            switch()
            return checked_rate(mix)

        rates = by_turns(rounds, {"without": lambda: rate(proxy.off), "with": lambda: rate(proxy.on)})
        counts = proxy.counts()
    done = ", ".join(f"{counts[kind]} {kind}" for kind in ("resets", "truncated", "errors"))
    return [
        *((f"S3 through the proxy, {name} faults", shown(pace)) for name, pace in rates.items()),
        (f"with / without; {done} in {counts['gets']} GETs", f"{rates['with'].per_s / rates['without'].per_s:.2f}"),
        ("each sample came once", "yes"),
    ]


def measure(options: Options, folder: Path, parts: set[str]) -> Rows:
    """Make the data that the parts need, and measure; the environment names a running S3 server."""
    rows: Rows = []
    if "f" in parts:
        shards = data.write_set(
            folder / "set", num_shards=options.shards, samples=options.samples, picture_bytes=PICTURE_BYTES
        )
        rows += fresh(bench_faults, data.put_set(folder / "set", shards, f"s3://{data.BUCKET}/set"), options.rounds)
    if parts & set("abcd"):
        (full,) = data.write_set(
            folder / "full", num_shards=1, samples=options.full_samples, picture_bytes=PICTURE_BYTES
        )
    if parts & set("ac"):
        url = data.copied_set(folder / "full", full, "full", NUM_SHARDS)
        rows += fresh(bench_s3, url, options.rounds, options.full_shards) if "a" in parts else []
        rows += bench_first_batch(url, "S3, first", options.rounds, resumed=False) if "c" in parts else []
    if parts & set("bd"):
        url = data.linked_set(folder / "linked", folder / "full", full, NUM_SHARDS)
        rows += fresh(bench_local, url, options.rounds, options.full_shards) if "b" in parts else []
        rows += bench_resume(url, options.rounds) if "d" in parts else []
    if "e" in parts:
        tiny = data.write_set(folder / "tiny", num_shards=20, samples=5_000, picture_bytes=TINY_PICTURE_BYTES)
        rows += fresh(bench_memory, data.put_set(folder / "tiny", tiny, f"s3://{data.BUCKET}/tiny"))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder goes")
    parser.add_argument("--parts", default="a,b,c,d,e,f")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=24, help="shards of the set of part f")
    parser.add_argument("--samples", type=int, default=1_000, help="samples in each of them")
    parser.add_argument("--full-samples", type=int, default=10_000, help="samples in each shard of parts a to d")
    parser.add_argument("--full-shards", type=int, default=8, help="so many of those are read in parts a and b")
    parser.add_argument("--port", type=int, default=27480, help="of the S3 server, which also takes the next one")
    options = Options(**vars(parser.parse_args()))
    parts = set(options.parts.split(","))
    # Ended by a signal, it still takes the S3 server with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=options.folder) as name, ExitStack() as services:
        if parts & set("acef"):
            services.enter_context(data.s3_server(Path(name) / "ceph", options.port))
        rows = measure(options, Path(name), parts)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value:>28}")


if __name__ == "__main__":
    main()
