"""How fast samples come: ours, obstore's, the webdataset library's. `streaming.py` compares them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np

from slip.data.plan import Plan, make_plan
from slip.data.samples import RawSample
from slip.data.sets import Mix
from slip.data.source import Slot
from slip.data.stream import SampleReader
from tests.bench import streaming_data as data

CONNECTIONS = 8
BATCH = 256
FAULT_EPOCHS = 4
_RANGE_BYTES = 8 << 20


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


def delivered(reader: SampleReader, plan: Plan, stop: int) -> Iterator[tuple[Slot, RawSample]]:
    """Every sample up to `stop`, taken apart, as the loader takes them."""
    reader.start(0, stop)
    for position in range(0, stop, plan.global_batch):
        for slot in reader.next_batch():
            sample = slot.window.result()[slot.number]
            assert isinstance(sample, RawSample)
            yield slot, sample
        reader.release(position + plan.global_batch)


def reader_rate(mix: Mix) -> Pace:
    """One epoch, from an empty reader to the last whole batch: one more would open all lanes of the next epoch."""
    plan = make_plan(mix, seed=0, global_batch=BATCH)
    clock = _Clock()
    with closing(SampleReader(mix, plan, connections=CONNECTIONS)) as reader:
        num = sum(1 for _ in delivered(reader, plan, plan.num_samples // BATCH * BATCH))
        return clock.pace(num)


def raw_rate(mix: Mix, *, whole: bool) -> Pace:
    """The same with obstore alone, which only counts the bytes."""
    import obstore
    from obstore.store import S3Store

    bucket = S3Store(
        data.BUCKET,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    keys = [(placed.url.split("/", 3)[3], placed.shard.num_bytes) for placed in mix.shards]

    def stream(key: str) -> int:
        return sum(len(chunk) for chunk in obstore.get(bucket, key).stream(min_chunk_size=1 << 20))

    def part(key: str, start: int, stop: int) -> int:
        return len(obstore.get_range(bucket, key, start=start, end=stop))

    clock = _Clock()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        if whole:
            reads = [pool.submit(stream, key) for key, _ in keys]
        else:
            reads = [
                pool.submit(part, key, start, min(start + _RANGE_BYTES, num_bytes))
                for key, num_bytes in keys
                for start in range(0, num_bytes, _RANGE_BYTES)
            ]
        num_bytes = sum(read.result() for read in reads)
    assert num_bytes == mix.num_bytes
    return clock.pace(mix.num_samples)


def webdataset_rate(mix: Mix) -> Pace:
    """The webdataset library over the same tars, in order, nothing decoded."""
    import webdataset

    clock = _Clock()
    num = sum(1 for _ in webdataset.WebDataset([placed.url for placed in mix.shards], shardshuffle=False))
    assert num == mix.num_samples
    return clock.pace(num)


def checked_rate(mix: Mix) -> Pace:
    """Some epochs whose samples are all there, once, where planned."""
    plan = make_plan(mix, seed=0, global_batch=BATCH)
    came, epochs, per_shard = [], [], mix.shards[0].shard.num_samples
    stop = -(-FAULT_EPOCHS * plan.num_samples // BATCH) * BATCH
    clock = _Clock()
    with closing(SampleReader(mix, plan, connections=CONNECTIONS)) as reader:
        for slot, sample in delivered(reader, plan, stop):
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
