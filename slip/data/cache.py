"""Shard bytes kept on the node's own disk, for all processes of the node and for the runs after this one.

In come reads of byte ranges of objects (URL and digest) and a function that fetches from the store; out come exactly
those bytes. Objects are kept in aligned blocks, one file each, under the sha256 of full URL and digest: a base name
would be the same in two data sets, and a URL the same before and after a data set was built anew. `cache_space` shares
out the room and says what is evicted; whether bytes are right is the caller's to find out, by the samples' digests.

The cache may fail, the run may not: what cannot be kept or read here is fetched, with one warning.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from slip.data.cache_space import Space, block_range, network_file_system

logger = logging.getLogger(__name__)

Fetch = Callable[[int, int], memoryview]
"""fetch(start, length): exactly these bytes of the object, from the store."""

_RETRY_S = 300.0
"""After an error nothing is kept for so long: a disk that is full stays so for a while."""


def _open_space(folder: str | Path, capacity_bytes: int, block_bytes: int) -> tuple[Path, Space]:
    if not str(folder) or "://" in str(folder):
        raise ConfigError(f"--data.cache is {str(folder)!r}; expected a folder on a disk of this machine")
    if capacity_bytes < block_bytes:
        raise ConfigError(
            f"--data.cache-gb gives the cache {capacity_bytes} bytes, less than one block of {block_bytes}; "
            "make it larger, or leave --data.cache away to do without a cache"
        )
    try:
        path = Path(folder).expanduser().resolve()
        space = Space(path, capacity_bytes)
    except (OSError, RuntimeError) as error:  # RuntimeError: "~name" of nobody
        raise ConfigError(
            f"--data.cache {folder}: cannot be used as the cache's folder: {error}; "
            "name a folder on a local disk that you may write to"
        ) from error
    if kind := network_file_system(path):
        logger.warning(
            "--data.cache %s is on a network file system (%s), where it gains little; name a local folder",
            path,
            kind,
        )
    return path, space


class _Read:
    """One call of `BlockCache.read`: which bytes of which object, and what of them is there."""

    def __init__(self, folder: Path, num_bytes: int, block_bytes: int, start: int, length: int) -> None:
        self.folder = folder
        self._num_bytes = num_bytes
        self._block_bytes = block_bytes
        self.start, self.stop = start, start + length
        self.blocks = range(start // block_bytes, -(-self.stop // block_bytes))
        self._out: memoryview | None = None

    def span(self, first: int, last: int) -> tuple[int, int]:
        """First byte and end of the blocks from `first` to `last`, both included."""
        return first * self._block_bytes, min((last + 1) * self._block_bytes, self._num_bytes)

    def wanted(self, first: int, last: int) -> tuple[int, int]:
        """What this read asks for of the blocks from `first` to `last`."""
        start, stop = self.span(first, last)
        return max(start, self.start), min(stop, self.stop)

    def path(self, block: int) -> Path:
        """Where a block is kept."""
        start, stop = self.span(block, block)
        return self.folder / f"{start}-{stop}"

    @property
    def out(self) -> memoryview:
        """The answer, made when it is first written to."""
        if self._out is None:
            self._out = np.empty(self.stop - self.start, np.uint8).data
        return self._out

    def put(self, start: int, data: memoryview) -> None:
        """Take over what is wanted of the bytes from `start` on; without copying if they are just the answer."""
        if (start, start + len(data)) == (self.start, self.stop):
            self._out = data
            return
        low, high = max(start, self.start), min(start + len(data), self.stop)
        self.out[low - self.start : high - self.start] = data[low - start : high - start]


def _runs(blocks: Iterable[int]) -> list[list[int]]:
    """Group what is consecutive: [1, 2, 5] -> [[1, 2], [5]]."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _exactly(fetch: Fetch, start: int, stop: int) -> memoryview:
    data = memoryview(fetch(start, stop - start))
    if data.nbytes != stop - start:
        raise ValueError(f"fetch({start}, {stop - start}) gave {data.nbytes} bytes")
    return data


class BlockCache:
    """A folder of blocks. Safe to use from several threads; every process opens its own on the same folder.

    Room for `capacity_bytes` is shared by all processes and data sets that use the folder. A damaged or missing folder,
    or a capacity below one block, is a ConfigError; after that the cache raises nothing of its own.
    """

    def __init__(self, folder: str | Path, capacity_bytes: int, *, block_bytes: int = 8 << 20) -> None:
        self._folder, self._space = _open_space(folder, capacity_bytes, block_bytes)
        self._block_bytes = block_bytes
        self._mutex = threading.Lock()
        # Neighbouring windows of a lane are read at the same time and share a block: one thread fetches it.
        self._arriving: dict[Path, threading.Event] = {}
        self._distrusted: set[Path] = set()
        self._keep_again = 0.0
        self._complained = False
        self.hit_bytes = 0
        """Bytes returned that came from the folder."""
        self.miss_bytes = 0
        """Bytes returned that were fetched; what was fetched around them to fill blocks does not count."""

    def close(self) -> None:
        """Let go of the folder, when no read is under way any more; the blocks stay."""
        self._space.close()

    def claim(self, objects: Iterable[tuple[str, str]]) -> None:
        """Say, before reading, which objects (URL, digest) this run will use, so that none of them is evicted.

        Without it, what an earlier run of the same data left would go, as foreign, in the first epoch.
        """
        for url, digest in objects:
            with suppress(OSError):
                os.utime(self._object(url, digest))

    def read(self, url: str, digest: str, num_bytes: int, start: int, length: int, fetch: Fetch) -> memoryview:
        """Bytes [start, start + length) of an object of `num_bytes`.

        What is missing is fetched, one call for every run of consecutive blocks: whole blocks where there is room to
        keep them, else just what is asked for. What `fetch` raises passes through.
        """
        if not 0 <= start <= start + length <= num_bytes:
            raise ValueError(f"{url}: bytes {start} to {start + length} asked for of {num_bytes}")
        if length == 0:
            return memoryview(b"")
        read = _Read(self._object(url, digest), num_bytes, self._block_bytes, start, length)
        missing = [block for block in read.blocks if not self._load(read, block)]
        if len(missing) < len(read.blocks):
            with suppress(OSError):
                os.utime(read.folder)
        with self._mutex:
            elsewhere = {b: self._arriving[read.path(b)] for b in missing if read.path(b) in self._arriving}
        runs = _runs(block for block in missing if block not in elsewhere)
        fetched_bytes = sum(self._fetch_run(read, run, fetch) for run in runs)
        for block, arrived in elsewhere.items():
            arrived.wait()
            if not self._load(read, block):
                low, high = read.wanted(block, block)
                read.put(low, _exactly(fetch, low, high))
                fetched_bytes += high - low
        with self._mutex:
            self.miss_bytes += fetched_bytes
            self.hit_bytes += length - fetched_bytes
        return read.out

    def drop(self, url: str, digest: str, start: int, length: int) -> None:
        """Forget the blocks that hold bytes of this range: a sample in them does not match its digest."""
        folder = self._object(url, digest)
        paths: list[Path] = []
        try:
            for path in folder.iterdir():
                low, high = block_range(path.name) or (0, 0)
                if low < start + length and start < high and ".part-" not in path.name:
                    paths.append(path)
            self._space.remove(paths)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._distrusted.update(paths)
            self._complain(error)

    def _object(self, url: str, digest: str) -> Path:
        name = hashlib.sha256(f"{url}\n{digest}".encode()).hexdigest()
        return self._folder / name[:2] / name

    def _load(self, read: _Read, block: int) -> bool:
        """Read what is wanted of a block from the folder; False if it is not there, or not whole."""
        path, (begin, end), (low, high) = read.path(block), read.span(block, block), read.wanted(block, block)
        if path in self._distrusted:
            return False
        try:
            with path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size == end - begin:
                    out = read.out[low - read.start : high - read.start]
                    done = 0
                    while done < len(out) and (count := os.preadv(file.fileno(), [out[done:]], low - begin + done)):
                        done += count
                    return done == len(out)
            self._space.remove([path])
        except FileNotFoundError:
            pass
        except OSError as error:
            self._complain(error)
        return False

    def _fetch_run(self, read: _Read, run: list[int], fetch: Fetch) -> int:
        """Fetch a run of consecutive blocks and keep those there is room for; the wanted bytes among them."""
        low, high = read.wanted(run[0], run[-1])
        awaited = self._announce([read.path(block) for block in run])
        parts: list[Path] = []
        try:
            parts = self._reserve(awaited)
            awaited, hopeless = awaited[: len(parts)], awaited[len(parts) :]
            self._arrive(hopeless)
            begin, end = read.span(run[0], run[len(parts) - 1]) if parts else (low, high)
            data = _exactly(fetch, begin, max(high, end))
            read.put(begin, data)
            if parts:
                self._keep(parts, data)
        except BaseException:
            with suppress(OSError):
                self._space.remove(parts)
            raise
        finally:
            self._arrive(awaited)
        return high - low

    def _announce(self, blocks: list[Path]) -> list[Path]:
        """The first of the blocks, up to one that another thread fetches; who misses them waits from here on."""
        with self._mutex:
            if time.monotonic() < self._keep_again:
                return []
            announced = list(itertools.takewhile(lambda block: block not in self._arriving, blocks))
            self._arriving.update((block, threading.Event()) for block in announced)
        return announced

    def _arrive(self, blocks: list[Path]) -> None:
        """End the waiting for blocks, which are there or not going to be."""
        with self._mutex:
            for block in blocks:
                self._arriving.pop(block).set()

    def _reserve(self, blocks: list[Path]) -> list[Path]:
        try:
            return self._space.reserve(blocks) if blocks else []
        except OSError as error:
            self._complain(error)
            return []

    def _keep(self, parts: list[Path], data: memoryview) -> None:
        """Write consecutive blocks, the first of which begins where `data` does."""
        try:
            begin = 0
            for part in parts:
                low, high = block_range(part.name) or (0, 0)
                part.write_bytes(data[begin : begin + high - low])
                begin += high - low
            self._space.settle(parts)
        except OSError as error:
            self._complain(error)
            with suppress(OSError):
                self._space.remove(parts)

    def _complain(self, error: OSError) -> None:
        with self._mutex:
            self._keep_again = time.monotonic() + _RETRY_S
            first, self._complained = not self._complained, True
        if first:
            logger.warning(
                "cache %s: %s; the run goes on and fetches what it cannot keep. Look for a full disk, lost "
                "permissions, files deleted by hand; keeping is tried again every %.0f minutes without further notice",
                self._folder,
                error,
                _RETRY_S / 60,
            )
