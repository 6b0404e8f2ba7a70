"""Windows of the plan to raw samples: ranged reads of the shards, digests checked, the next window read ahead.

`SampleReader.window` gives a future of the samples of one window (see `slip.data.plan`), in the order of use. One
ranged read fetches each consecutive piece of a shard; the offset index says where its samples lie, so no tar header is
parsed. A sample whose bytes do not match their digest is read once more, alone; if it is still wrong it becomes a
`DamagedSample`, and what to do about it is the loader's business. A shard or index that is missing
or cannot be read is an error of the run (StoreError, ShardError).

Memory: two windows for every lane that is read here, the one in use and the next.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import store
from pipeline.errors import ConfigError
from pipeline.manifest import Manifest, Shard, ShardIndex, read_index
from slip.data.plan import Plan

logger = logging.getLogger(__name__)

READER_THREADS = 8
"""Ranged requests in flight per process."""

_SPARE_INDEXES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """One sample as it lies in its shard."""

    sample_id: int
    shard: str
    offset: int
    key: str
    image: bytes
    image_ext: str
    text: str
    """The caption of the .txt member."""
    title: str
    """From the .json member; "" when there is none or it is not usable as a caption."""
    description: str

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions to draw from, never empty."""
        return tuple(text for text in (self.title, self.description) if text) or (self.text,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedSample:
    """A sample whose bytes are not what was sealed."""

    sample_id: int
    shard: str
    offset: int
    key: str
    detail: str


Window = tuple[RawSample | DamagedSample, ...]


def _usable_texts(data: bytes) -> tuple[str, str]:
    """Title and description out of a sample's .json, each "" unless it is a usable text."""
    try:
        content = json.loads(data)
    except ValueError:
        return "", ""
    if not isinstance(content, dict):
        return "", ""
    title, description = (
        text if content.get(f"{name}_usable", True) and isinstance(text := content.get(name), str) else ""
        for name in ("title", "description")
    )
    return title.strip(), description.strip()


def cut_sample(data: bytes, sample_id: int, shard: str, index: ShardIndex, row: int) -> RawSample:
    """Take a sample's members out of its bytes in the tar (which start at the index's `offset`)."""
    offset = int(index.offset[row])

    def member(start: int, size: int) -> bytes:
        return data[start - offset : start - offset + size]

    title, description = _usable_texts(member(int(index.json_offset[row]), int(index.json_size[row])))
    return RawSample(
        sample_id=sample_id,
        shard=shard,
        offset=offset,
        key=index.keys[row],
        image=member(int(index.image_offset[row]), int(index.image_size[row])),
        image_ext=index.image_ext[row],
        text=member(int(index.txt_offset[row]), int(index.txt_size[row])).decode("utf-8", errors="replace"),
        title=title,
        description=description,
    )


class _IndexCache:
    """The most recently used shard indexes; each is read once, by whoever asks first."""

    def __init__(self, base_url: str, capacity: int) -> None:
        self._base_url = base_url
        self._capacity = capacity
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, Future[ShardIndex]] = OrderedDict()

    def get(self, shard: Shard) -> ShardIndex:
        with self._lock:
            found = self._indexes.get(shard.name)
            future: Future[ShardIndex] = Future() if found is None else found
            self._indexes[shard.name] = future
            self._indexes.move_to_end(shard.name)
            while len(self._indexes) > self._capacity:
                self._indexes.popitem(last=False)
        if found is None:
            try:
                future.set_result(read_index(self._base_url, shard))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._indexes.pop(shard.name, None)
        return future.result()


class SampleReader:
    """Reads windows of the plan with a few threads. `base_url` is the folder of the manifest."""

    def __init__(
        self, manifest: Manifest, base_url: str, plan: Plan, *, num_lanes: int, threads: int = READER_THREADS
    ) -> None:
        counts = tuple(shard.num_samples for shard in manifest.shards)
        if plan.counts != counts:
            raise ConfigError(f"{base_url}: the plan is for shards of {plan.counts} samples, the manifest has {counts}")
        self._manifest = manifest
        self._base_url = base_url
        self._plan = plan
        self._indexes = _IndexCache(base_url, num_lanes + _SPARE_INDEXES)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._windows: dict[int, dict[tuple[int, int], Future[Window]]] = {}

    def window(self, epoch: int, lane: int, window: int, *, ahead: tuple[int, int] | None) -> Future[Window]:
        """The samples of a window; starts reading the lane's window `ahead` (epoch, number) too.

        Only these two stay known for the lane, so memory is bounded by what the caller still holds. To be called from
        one thread.
        """
        wanted = [(epoch, window)] if ahead is None else [(epoch, window), ahead]
        known = self._windows.get(lane, {})
        self._windows[lane] = {
            key: known[key] if key in known else self._pool.submit(self._read_window, key[0], lane, key[1])
            for key in wanted
        }
        return self._windows[lane][epoch, window]

    def forget(self) -> None:
        """Give up what was read ahead."""
        for known in self._windows.values():
            for future in known.values():
                future.cancel()
        self._windows.clear()

    def close(self) -> None:
        """End the threads; reads that have begun are waited for."""
        self.forget()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_window(self, epoch: int, lane: int, window: int) -> Window:
        sample_ids = self._plan.window(epoch, lane, window)
        samples: dict[int, RawSample | DamagedSample] = {}
        for shard, first, stop in self._plan.pieces(sample_ids):
            samples.update(self._read_piece(shard, first, stop))
        return tuple(samples[int(sample_id)] for sample_id in sample_ids)

    def _read_piece(self, shard_number: int, first: int, stop: int) -> dict[int, RawSample | DamagedSample]:
        """Samples in rows [first, stop) of a shard, by id; one ranged read."""
        shard = self._manifest.shards[shard_number]
        index = self._indexes.get(shard)
        url = store.join(self._base_url, shard.name)
        begin, end = int(index.offset[first]), int(index.offset[stop - 1] + index.size[stop - 1])
        data = memoryview(store.read_range(url, begin, end - begin))
        first_id = self._plan.first_id(shard_number)
        samples: dict[int, RawSample | DamagedSample] = {}
        for row in range(first, stop):
            offset, size = int(index.offset[row]), int(index.size[row])
            sample = bytes(data[offset - begin : offset - begin + size])
            found = hashlib.sha256(sample).hexdigest()
            if found != index.sha256[row]:
                key = index.keys[row]
                logger.warning("%s: sample %s at byte %d does not match its sha256; reading it again", url, key, offset)
                sample = store.read_range(url, offset, size)
                found = hashlib.sha256(sample).hexdigest()
            if found == index.sha256[row]:
                samples[first_id + row] = cut_sample(sample, first_id + row, shard.name, index, row)
            else:
                samples[first_id + row] = DamagedSample(
                    sample_id=first_id + row,
                    shard=shard.name,
                    offset=offset,
                    key=index.keys[row],
                    detail=f"sha256 of its {size} bytes is {found}, the index says {index.sha256[row]}",
                )
        return samples
