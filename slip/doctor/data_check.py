"""Whether every node reads the data set, the same one, and fast enough: all at once, as in training.

In: manifests. All ranks open them and compare what they found, then each reads pieces of the shards, other ones than
the rest, over several connections. Out: MB a second of each node and in sum, and how many samples a second that is.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from pipeline import store
from pipeline.errors import StoreError
from slip.data.sets import Mix, open_mix
from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer, Exchange, Ranks, failures, judged
from slip.doctor.finding import Finding, place

OPENING = "manifest"
READING = "reading"

# A window of training is 128 samples of some 54 KB in one ranged read.
_MOST_BYTES = 7_000_000
_LEAST_BYTES = 250_000
_TELLING_BYTES = 10_000_000
"""On each node; what comes sooner than connections are made says nothing."""


class Piece(NamedTuple):
    """One ranged read."""

    url: str
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a rank knows of the data set."""

    digest: str
    num_samples: int
    sample_bytes: float
    """Of a tar, for each sample in it, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a rank has read."""

    num_bytes: int
    seconds: float


def pieces(
    shards: Sequence[tuple[str, int]], *, rank: int, world_size: int, share: int, connections: int
) -> list[Piece]:
    """The reads of one rank: spread over the whole data set, and beside those of other ranks.

    Args:
        shards: URL and bytes of each tar.
        share: bytes that a rank reads; less where the data set is smaller than all shares together.
        connections: reads under way at the same time; each gets several pieces where these are long enough.
    """
    total = sum(num_bytes for _, num_bytes in shards)
    length = max(min(max(share // connections, _LEAST_BYTES), _MOST_BYTES, share, total // world_size), 1)
    count = max(min(share * world_size, total) // length, 1)
    found: list[Piece] = []
    begin, i = 0, 0
    for url, num_bytes in shards:
        # Pieces begin at equal distances in all tars, one after the other; one that would pass the end moves back.
        while i < count and (at := total * i // count) < begin + num_bytes:
            fits = min(length, num_bytes)
            if i % world_size == rank:
                found.append(Piece(url, min(at - begin, num_bytes - fits), fits))
            i += 1
        begin += num_bytes
    return found


def read_pieces(wanted: Sequence[Piece], connections: int) -> Pace:
    """Read them all, several at once."""
    stopped = threading.Event()

    def watch(num_bytes: int, attempt: int) -> None:
        if stopped.is_set():
            raise StoreError("another read has failed")

    def read(piece: Piece) -> int:
        return len(store.read_buffer(piece.url, piece.start, piece.length, watch=watch))

    began = time.perf_counter()
    with ThreadPoolExecutor(connections, thread_name_prefix="doctor-read") as pool:
        reads = [pool.submit(read, piece) for piece in wanted]
        try:
            num_bytes = sum(one.result() for one in reads)
        except BaseException:
            # Those that have not begun stay so, the others end with the next bytes.
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Pace(num_bytes=num_bytes, seconds=time.perf_counter() - began)


def judge_opened(answers: Sequence[Answer[Opened]]) -> list[Finding]:
    """All must have found the same data set."""
    told = [(answer.node, answer.value) for answer in answers if answer.value is not None]
    counted = Counter(one.digest for _, one in told)
    nodes = tuple(dict.fromkeys(node for node, _ in told))
    if len(counted) > 1:
        most = counted.most_common(1)[0][0]
        odd = tuple(dict.fromkeys(node for node, one in told if one.digest != most))
        sides = "; ".join(
            f"sha256 {digest[:12]} on {place([node for node, one in told if one.digest == digest], ())}"
            for digest, _ in reversed(counted.most_common())
        )
        advice = "let all nodes read one data set"
        return [Finding(level="BAD", check=OPENING, where=odd, found=f"not the same: {sides}", advice=advice)]
    one = told[0][1]
    text = f"{one.num_samples:,} samples of {one.sample_bytes / 1e3:.1f} KB, sha256 {one.digest[:12]}"
    return [Finding(level="OK", check=OPENING, where=nodes, found=text)]


def judge_pace(answers: Sequence[Answer[Pace]], *, sample_bytes: float, gpu_rate: float, on_gpu: bool) -> list[Finding]:
    """Samples a second of each node against what its GPUs train; the slowest is named."""
    by_node: dict[str, list[Pace]] = {}
    for answer in answers:
        if answer.value is not None:
            by_node.setdefault(answer.node, []).append(answer.value)
    rates = {
        node: sum(pace.num_bytes for pace in paces) / max(max(pace.seconds for pace in paces), 1e-9)
        for node, paces in by_node.items()
    }
    slowest = min(rates, key=lambda node: rates[node])
    total = sum(rates.values())
    num_bytes = sum(pace.num_bytes for paces in by_node.values() for pace in paces)
    if num_bytes < _TELLING_BYTES * len(by_node):
        text = f"{num_bytes / 1e6:.1f} MB came; too little to tell how fast (--read-mb, or the data set, is small)"
        return [Finding(level="OK", check=READING, where=tuple(rates), found=text)]
    text = f"{total / 1e6:,.0f} MB/s ({num_bytes / 1e6:,.0f} MB came), that is {total / sample_bytes:,.0f} samples/s"
    if len(rates) > 1:
        text += (
            f" over all nodes; the slowest, {slowest}, {rates[slowest] / 1e6:,.0f} MB/s or "
            f"{rates[slowest] / sample_bytes:,.0f} samples/s"
        )
    slow = tuple(node for node, rate in rates.items() if rate / sample_bytes < gpu_rate * len(by_node[node]))
    if on_gpu and slow:
        needed = gpu_rate * len(by_node[slowest])
        text += f"; its {len(by_node[slowest])} GPUs train {needed:,.0f} samples/s (--gpu-rate)"
        advice = "keep the data nearer, or on local disks (--data.cache), or use more --connections"
        return [Finding(level="WARN", check=READING, where=slow, found=text, advice=advice)]
    return [Finding(level="OK", check=READING, where=tuple(rates), found=text)]


def check_data(exchange: Exchange, ranks: Ranks, config: DoctorConfig, *, on_gpu: bool) -> list[Finding]:
    """Open and read; rank 0 gets the findings."""
    if not config.manifest:
        text, advice = "not tried: no --manifest was given", "name the manifest the run will read"
        skipped = Finding(level="WARN", check=OPENING, where=tuple(ranks.nodes), found=text, advice=advice)
        return [] if ranks.rank else [skipped]
    mixes: list[Mix] = []

    def open_all() -> Opened:
        mix = open_mix(config.manifest)
        mixes.append(mix)
        return Opened(digest=mix.digest, num_samples=mix.num_samples, sample_bytes=mix.num_bytes / mix.num_samples)

    def read() -> Pace:
        shards = [(placed.url, placed.shard.num_bytes) for placed in mixes[0].shards]
        share = config.read_mb * 10**6 // ranks.ranks_here
        wanted = pieces(
            shards, rank=ranks.rank, world_size=len(ranks.nodes), share=share, connections=config.connections
        )
        return read_pieces(wanted, config.connections)

    opened = exchange.gather("data-open", open_all)
    # One that could not open it has nothing to read, and has said so.
    paces = exchange.gather("data-read", read if mixes else None)
    advice = "check the name, and that this node has network and credentials (AWS_*, ~/.aws)"
    found = judged(OPENING, opened, judge_opened, advice)
    sizes = [answer.value.sample_bytes for answer in opened if answer.value is not None]
    read_well = [answer for answer in paces if answer.value is not None]
    found += failures(READING, paces, "the name and size of a shard come from the manifest; see what is there")
    if sizes and read_well:
        found += judge_pace(read_well, sample_bytes=sizes[0], gpu_rate=config.gpu_rate, on_gpu=on_gpu)
    return found
