"""Windows of the plan to raw samples: ranged reads of the shards, digests checked, read ahead by bytes.

A window (see `slip.data.plan`) is one ranged read for each shard it touches; several are in flight. The offset index
says where samples lie, so no tar header is parsed, and a sample's members are only taken out of the window's bytes when
it is used. Windows are asked for in the order in which batches need them: what the batches handed out need is
always asked for, and beyond that as many bytes as `prefetch_bytes` allows.

A body that breaks is continued by `pipeline.store`. A sample whose bytes do not match their digest is read once more,
alone; if it is still wrong it becomes a `DamagedSample`, and what to do about it is the loader's business. A
shard or index that is missing or cannot be read is an error of the run (StoreError, ShardError).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, overload

from pipeline import store
from pipeline.errors import StoreError
from pipeline.manifest import ShardIndex
from slip.data.buffers import BufferPool
from slip.data.cache import BlockCache
from slip.data.indexes import IndexCache
from slip.data.order import Int64Array
from slip.data.plan import Plan, Run, WindowKey
from slip.data.samples import DamagedSample, RawSample, Window, cut_sample
from slip.data.sets import Mix, PlacedShard
from slip.data.source import Slot

logger = logging.getLogger(__name__)

_SPARE_INDEXES = 16
_MOST_NAMED = 3
_MOST_READINGS = 5
_MOST_PLANNED = 256
"""Batches read ahead at most: of samples of a kilobyte the bytes allowed would be half a million samples, and the
first batch would wait until all of them are planned."""


class _Unopened(NamedTuple):
    """A sample's bytes as they came, not looked at yet."""

    data: memoryview
    placed: PlacedShard
    layout: ShardIndex
    row: int


class _LazyWindow(Sequence[RawSample | DamagedSample]):
    """The samples of a window, checked and taken apart by whoever asks for them.

    That is a decode thread, which has the bytes in its processor's cache then; the threads that read
    only read.
    """

    def __init__(self, samples: Sequence[_Unopened], opener: Callable[[_Unopened], RawSample | DamagedSample]) -> None:
        self._samples, self._opener = samples, opener

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, number: int) -> RawSample | DamagedSample: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[RawSample | DamagedSample]: ...
    def __getitem__(self, number: int | slice) -> RawSample | DamagedSample | Sequence[RawSample | DamagedSample]:
        if isinstance(number, slice):
            return _LazyWindow(self._samples[number], self._opener)
        return self._opener(self._samples[number])


class _Held(NamedTuple):
    """A window that is being read or used."""

    sample_ids: list[int]
    """In the order of use."""
    samples: Future[Window]


@dataclass(slots=True, kw_only=True, eq=False)
class _Reading:
    """A ranged read under way, for whoever asks what a stall waits for."""

    url: str
    start: int
    length: int
    purpose: str
    """ "lane 17", or which sample is read again."""
    thread: str
    last: float
    """time.monotonic() when bytes came last."""
    check: Callable[[], None]
    """Raises when the read is no longer wanted."""
    got: int = 0
    attempt: int = 1

    def watch(self, num_bytes: int, attempt: int) -> None:
        """Note progress; `pipeline.store` calls it."""
        self.check()
        if num_bytes > self.got:
            self.last = time.monotonic()
        self.got, self.attempt = num_bytes, attempt

    def __str__(self) -> str:
        return (
            f"{self.url} from byte {self.start}: {self.got / 1e6:.1f} of {self.length / 1e6:.1f} MB, attempt "
            f"{self.attempt}, nothing for {time.monotonic() - self.last:.0f} s (thread {self.thread}, {self.purpose})"
        )


class SampleReader:
    """One rank's samples of the plan, read by `connections` threads. To be used from one thread; closes its cache."""

    def __init__(
        self,
        mix: Mix,
        plan: Plan,
        *,
        rank: int = 0,
        world_size: int = 1,
        connections: int = 8,
        prefetch_bytes: int = 512 << 20,
        cache: BlockCache | None = None,
    ) -> None:
        self.plan = plan
        self.digest = mix.digest
        self.num_samples = plan.num_samples
        self.lanes = plan.lanes
        self._mix, self._rank, self._world_size = mix, rank, world_size
        self._prefetch_bytes, self._cache = prefetch_bytes, cache
        self._sample_bytes = [manifest.num_bytes / manifest.num_samples for manifest in mix.manifests]
        first = plan.runs(0, rank, world_size)
        self._own_lanes = len({(run.key.data_set, run.key.lane) for run in first})
        self._indexes = IndexCache(2 * self._own_lanes + _SPARE_INDEXES)
        if cache is not None:
            cache.claim((placed.url, placed.shard.sha256) for placed in mix.shards)
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="read")
        self._buffers = BufferPool()
        self._held: dict[WindowKey, _Held] = {}
        self._readings: dict[int, _Reading] = {}
        self._planned: deque[list[Run]] = deque()
        self._planned_to = self._stop = 0
        self._closed = False
        # Bytes (by the data set's mean) of the windows that no batch handed out has needed yet.
        self._ahead: dict[WindowKey, float] = {}

    def describe(self) -> str:
        """The data, and the memory its windows take."""
        names = ", ".join(f"{manifest.name} ({manifest.num_samples})" for manifest in self._mix.manifests)
        in_use = self._own_lanes * self.plan.shuffle_window * max(self._sample_bytes)
        return (
            f"{names}: {self.num_samples} samples in {len(self._mix.shards)} shards; reading {self._own_lanes} of "
            f"{self.plan.lanes} lanes, up to {(in_use + self._prefetch_bytes) / 1e6:.0f} MB in memory"
        )

    def start(self, samples: int, stop: int) -> None:
        """Batches from `samples` consumed samples on, to `stop`; forgets what was read ahead."""
        for _, future in self._held.values():
            future.cancel()
        self._held.clear()
        self._ahead.clear()
        self._planned.clear()
        self._planned_to, self._stop = samples, stop

    def next_batch(self) -> list[Slot]:
        """This rank's slots of the next global batch, in order; returns without waiting for their bytes."""
        if not self._planned:
            self._plan_batch()
        runs = self._planned.popleft()
        slots: list[Slot] = []
        for key, start, stop in runs:
            self._ahead.pop(key, None)
            ids, future = self._held[key]
            slots += [Slot(future, number, ids[number], key.epoch) for number in range(start, stop)]
        while (
            self._planned_to < self._stop
            and len(self._planned) < _MOST_PLANNED
            and sum(self._ahead.values()) < self._prefetch_bytes
        ):
            self._plan_batch()
        return slots

    def _plan_batch(self) -> None:
        """Ask for the windows of one more batch."""
        runs = self.plan.runs(self._planned_to, self._rank, self._world_size)
        for key, _, _ in runs:
            if key not in self._held:
                begin, end = self.plan.orders[key.data_set].window_slots(key.lane, key.window)
                ids = self.plan.window(key)
                self._held[key] = _Held(ids.tolist(), self._pool.submit(self._read_window, ids, key.lane))
                self._ahead[key] = (end - begin) * self._sample_bytes[key.data_set]
        self._planned.append(runs)
        self._planned_to += self.plan.global_batch

    def release(self, samples: int) -> None:
        """Everything before this position has been used: windows no later batch needs are dropped."""
        for key in [key for key in self._held if self.plan.finished(key, samples)]:
            del self._held[key]

    def waiting_for(self) -> str:
        """The reads under way that have waited longest, with shard, offset, thread and lane."""
        readings = sorted(self._readings.values(), key=lambda reading: reading.last)
        named = "; ".join(map(str, readings[:_MOST_NAMED]))
        return named + (f"; and {len(readings) - _MOST_NAMED} more" if len(readings) > _MOST_NAMED else "")

    def close(self) -> None:
        """End the threads; reads that have begun end with the next bytes they get, or attempt they make."""
        self._closed = True
        self.start(0, 0)
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()

    def _read_window(self, sample_ids: Int64Array, lane: int) -> Window:
        samples: dict[int, _Unopened] = {}
        for shard, first, stop in self.plan.pieces(sample_ids):
            samples.update(self._read_piece(self._mix.shards[shard], first, stop, lane))
        return _LazyWindow([samples[sample_id] for sample_id in sample_ids.tolist()], self._open)

    @contextmanager
    def _noted(self, url: str, start: int, length: int, purpose: str) -> Iterator[_Reading]:
        thread = threading.current_thread()
        reading = _Reading(
            url=url,
            start=start,
            length=length,
            purpose=purpose,
            thread=thread.name,
            last=time.monotonic(),
            check=self._stopped,
        )
        self._readings[threading.get_ident()] = reading
        try:
            yield reading
        finally:
            del self._readings[threading.get_ident()]

    def _fetch(self, url: str, purpose: str, start: int, length: int) -> memoryview:
        with self._noted(url, start, length, purpose) as reading:
            buffer = self._buffers.take(length)
            store.read_into(url, start, buffer, watch=reading.watch)
            return buffer.toreadonly()

    def _stopped(self) -> None:
        """End a read that nobody waits for any more: it may have a minute of attempts before it."""
        if self._closed:
            raise StoreError("the reader is closed")

    def _read_piece(self, placed: PlacedShard, first: int, stop: int, lane: int) -> Iterator[tuple[int, _Unopened]]:
        """Samples in rows [first, stop) of a shard, by id; one ranged read."""
        shard, url = placed.shard, placed.url
        with self._noted(f"the index of {url}", 0, 0, f"lane {lane}"):
            index = self._indexes.get(placed)
        begin, end = int(index.offset[first]), int(index.offset[stop - 1] + index.size[stop - 1])
        fetch = partial(self._fetch, url, f"lane {lane}")
        if self._cache is None:
            data = fetch(begin, end - begin)
        else:
            data = self._cache.read(url, shard.sha256, shard.num_bytes, begin, end - begin, fetch)
        starts = (index.offset[first:stop] - begin).tolist()
        for row, start, size in zip(range(first, stop), starts, index.size[first:stop].tolist(), strict=True):
            yield placed.first_id + row, _Unopened(data[start : start + size], placed, index, row)

    def _open(self, sample: _Unopened) -> RawSample | DamagedSample:
        """Compare a sample with its digest and take it apart; called by decode threads."""
        data, placed, index, row = sample
        sample_id = placed.first_id + row
        detail = index.damage(row, data)
        if not detail:
            return cut_sample(data, sample_id, placed.url, index, row)
        url, key, offset, size = placed.url, index.key(row), int(index.offset[row]), int(index.size[row])
        # What is wrong in the same way twice is wrong in the shard; what differs was changed on its way.
        before = ""
        for _ in range(_MOST_READINGS):
            if detail == before:
                break
            logger.warning("%s: reading sample %s at byte %d again: %s", url, key, offset, detail)
            if self._cache is not None:
                self._cache.drop(url, placed.shard.sha256, offset, size)
            data, before = self._fetch(url, f"sample {key} again", offset, size), detail
            detail = index.damage(row, data)
            if not detail:
                return cut_sample(data, sample_id, url, index, row)
        return DamagedSample(sample_id=sample_id, shard=url, offset=offset, key=key, detail=detail)
