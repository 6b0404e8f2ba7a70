"""How fast samples come: ours, obstore's, the webdataset library's. `streaming.py` compares them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import numpy as np

from slip.data.plan import make_plan
from slip.data.samples import RawSample
from slip.data.sets import Mix, PlacedShard
from slip.data.source import Slot
from slip.data.stream import SampleReader
from tests.bench import streaming_data as data

CONNECTIONS = 8
BATCH = 256
FAULT_EPOCHS = 4
_RANGE_BYTES = 8 << 20
_WARM_BATCHES = 16


class Pace(NamedTuple):
    """How fast samples came, and what each cost this process."""

    per_s: float
    cpu_us: float


def cpu_s() -> float:
    """CPU seconds of this process, the kernel's part included."""
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


class _Clock:
    """Time and CPU time since it was made."""

    def __init__(self) -> None:
        self._begin, self._cpu_s = time.perf_counter(), cpu_s()

    def pace(self, num_samples: int) -> Pace:
        """If so many samples came since."""
        return Pace(num_samples / (time.perf_counter() - self._begin), (cpu_s() - self._cpu_s) / num_samples * 1e6)


def delivered(reader: SampleReader, start: int, stop: int) -> Iterator[tuple[Slot, RawSample]]:
    """Every sample from position `start` to `stop`, digests checked, as the loader takes them."""
    reader.start(start, stop)
    for position in range(start, stop, reader.plan.global_batch):
        for slot in reader.next_batch():
            sample = slot.window.result()[slot.number]
            assert isinstance(sample, RawSample)
            yield slot, sample
        reader.release(position + reader.plan.global_batch)


def reader_rate(mix: Mix, num_samples: int, connections: int) -> Pace:
    """Samples in the middle of a long epoch, from when the reader has got going."""
    plan = make_plan(mix, seed=0, global_batch=BATCH)
    start = plan.num_samples // 3 // BATCH * BATCH
    with closing(SampleReader(mix, plan, connections=connections)) as reader:
        samples = delivered(reader, start, plan.num_samples // BATCH * BATCH)
        for _ in islice(samples, _WARM_BATCHES * BATCH):
            pass
        clock = _Clock()
        return clock.pace(sum(1 for _ in islice(samples, num_samples)))


def raw_rate(mix: Mix, num_shards: int, connections: int, *, whole: bool) -> Pace:
    """The first shards with obstore alone, which only counts the bytes: whole objects, or ranges of 8 MB."""
    import obstore
    from obstore.store import S3Store

    bucket = S3Store(
        data.BUCKET,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    shards = mix.shards[:num_shards]

    def stream(placed: PlacedShard) -> int:
        key = placed.url.split("/", 3)[3]
        return sum(len(chunk) for chunk in obstore.get(bucket, key).stream(min_chunk_size=1 << 20))

    def part(placed: PlacedShard, start: int) -> int:
        stop = min(start + _RANGE_BYTES, placed.shard.num_bytes)
        return len(obstore.get_range(bucket, placed.url.split("/", 3)[3], start=start, end=stop))

    clock = _Clock()
    with ThreadPoolExecutor(connections) as pool:
        if whole:
            reads = [pool.submit(stream, placed) for placed in shards]
        else:
            parts = [(p, start) for p in shards for start in range(0, p.shard.num_bytes, _RANGE_BYTES)]
            reads = [pool.submit(part, placed, start) for placed, start in parts]
        num_bytes = sum(read.result() for read in reads)
    assert num_bytes == sum(placed.shard.num_bytes for placed in shards)
    return clock.pace(sum(placed.shard.num_samples for placed in shards))


def webdataset_rate(mix: Mix, num_shards: int) -> Pace:
    """The webdataset library over the first of the same tars, in order, nothing decoded."""
    import webdataset

    shards = mix.shards[:num_shards]
    clock = _Clock()
    num = sum(1 for _ in webdataset.WebDataset([placed.url for placed in shards], shardshuffle=False))
    assert num == sum(placed.shard.num_samples for placed in shards)
    return clock.pace(num)


def checked_rate(mix: Mix) -> Pace:
    """Some epochs whose samples are all there, once, where planned."""
    plan = make_plan(mix, seed=0, global_batch=BATCH)
    came, epochs, per_shard = [], [], mix.shards[0].shard.num_samples
    stop = -(-FAULT_EPOCHS * plan.num_samples // BATCH) * BATCH
    clock = _Clock()
    with closing(SampleReader(mix, plan, connections=CONNECTIONS)) as reader:
        for slot, sample in delivered(reader, 0, stop):
            assert sample.key == data.key_of(*divmod(slot.sample_id, per_shard)), "not the sample that was planned"
            came.append(sample.sample_id)
            epochs.append(slot.epoch)
        pace = clock.pace(len(came))
    planned = np.concatenate([plan.batch(samples) for samples in range(0, stop, BATCH)])
    assert np.array_equal(planned, came), "something else came than was planned"
    for epoch in range(FAULT_EPOCHS):
        ids = np.sort(np.asarray(came)[np.asarray(epochs) == epoch])
        assert np.array_equal(ids, np.arange(plan.num_samples)), f"samples of epoch {epoch} were lost or doubled"
    return pace
