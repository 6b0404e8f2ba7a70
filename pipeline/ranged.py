"""Parts of files and objects, read exactly: a body that breaks is continued from where it broke.

In: a URL, an offset, a length. Out: that many bytes, or a `StoreError` saying how far it came and what stood in
the way. A reset, a truncated body, a stall or a burst of 503 costs no byte twice on S3,
elsewhere at most the piece in flight. On S3 every continuing answer must come from the same version of the object.
Nothing here checks content: a byte changed on the way shows only in a digest. Safe to use from several threads.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from pipeline import connections
from pipeline.errors import StoreError
from pipeline.store_faults import BrokenBodyError, classify, is_store_fault, translated

Watch = Callable[[int, int], None]
"""watch(num_bytes_so_far, attempt): called when an attempt (from 1) begins and when bytes arrive.

It is called by the reading thread; an exception it raises ends the read.
"""

RANGE_BUDGET_S = 60.0
"""Seconds without a byte after which a ranged read is given up."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
# What fsspec's file systems are asked for at once, and what after a request that brought nothing.
_PIECE_BYTES = 4 << 20
_SMALL_PIECE_BYTES = 64 << 10
_GATHERED_BYTES = 256 << 10

_jitter = random.Random()


class _Source(Protocol):
    """Something ranges are read from."""

    where: str
    """The server's name for messages."""

    def parts(self, start: int, end: int, *, cautious: bool) -> Iterator[Any]:
        """One attempt at the bytes [start, end): buffers in order; an empty one says that there is an answer.

        It is cautious after an attempt that brought nothing: what gives bytes only by the piece, or gathers them, then
        hands out less at a time.
        """


class _S3Source:
    """An object on S3, the same version of it in every answer."""

    def __init__(self, url: str) -> None:
        bucket = connections.bucket_of(url)
        self._url, self.where, self._bodies = url, bucket.endpoint, bucket.bodies
        self._key = url.split("://", 1)[1].rstrip("/").partition("/")[2]
        self._lock = threading.Lock()
        self._version: object = None

    def parts(self, start: int, end: int, *, cautious: bool) -> Iterator[Any]:
        answer = self._bodies.get(self._key, options={"range": (start, end)})
        meta = answer.meta
        version = (meta["e_tag"] or meta["last_modified"], meta["size"])
        # Comparing answers works everywhere. If-Match does not: Ceph up to 16 at least wants the ETag without the
        # quotes it comes in, and gateways exist that ignore the header.
        with self._lock:
            self._version = self._version or version
            if version != self._version:
                raise StoreError(
                    f"{self._url}: the object was replaced while it was being read: ETag and size are {version}, "
                    f"they were {self._version}; start again, and do not write to a name that is in use"
                )
        if answer.range[1] < end:
            raise _cut_short(self._url, start, end, meta["size"])
        # Every part wakes this thread, which then waits for the interpreter's lock: of 8 threads reading 8 MB ranges on
        # two busy cores, parts as they arrive came at 467 MB/s, gathered to 64 KiB at 491 and to 1 MiB at 514. What is
        # being gathered is lost when a body breaks, so a connection that brought nothing is not gathered from.
        yield b""
        yield from answer.stream(min_chunk_size=1 if cautious else _GATHERED_BYTES)


class _FileSource:
    """A file in any other store fsspec knows; it gives no parts of an answer, so it is asked in pieces."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._filesystem, self._path, self.where = connections.opened(url)

    def parts(self, start: int, end: int, *, cautious: bool) -> Iterator[Any]:
        piece_bytes = _SMALL_PIECE_BYTES if cautious else _PIECE_BYTES
        for at in range(start, end, piece_bytes):
            wanted = min(piece_bytes, end - at)
            data = self._filesystem.cat_file(self._path, start=at, end=at + wanted)
            if len(data) > wanted:
                raise StoreError(
                    f"{self._url}: got {len(data)} bytes when asked for {wanted} at offset {at}: this server does not "
                    "serve ranges; use one that does, or copy the file to a disk"
                )
            yield data
            if len(data) < wanted:
                found = None
                with suppress(StoreError):  # what stands in the way of looking is for the next attempt to meet
                    found = connections.size(self._url)
                if found is not None and found < end:
                    raise _cut_short(self._url, at, end, found)
                raise BrokenBodyError(f"the answer ended after {len(data)} of {wanted} bytes")


def _cut_short(url: str, start: int, end: int, found: int) -> StoreError:
    return StoreError(
        f"{url}: cannot read {end - start} bytes at offset {start}: the file has {found} bytes, fewer than expected; "
        "it is cut short or was replaced"
    )


class _Reading:
    """One range on its way: what has come, in how many attempts, and since when nothing more does."""

    def __init__(self, url: str, source: _Source, start: int, into: memoryview, watch: Watch | None) -> None:
        self._url, self._source, self._start, self._watch = url, source, start, watch
        # numpy copies without the interpreter's lock, which other threads decode under.
        self._buffer = np.frombuffer(into, np.uint8)
        self._done = self._attempt = self._in_vain = 0
        self._cautious = self._answered = False
        self._begun = self._progress = time.monotonic()

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(self._done, self._attempt)

    def _try(self) -> Exception | None:
        """Take what one request gives; what ended it too early, None when the range is complete."""
        self._attempt += 1
        self._answered = False
        self._tell()
        end = self._start + len(self._buffer)
        parts = self._source.parts(self._start + self._done, end, cautious=self._cautious)
        failure: Exception = BrokenBodyError("the answer ended early")
        while True:
            try:
                part = next(parts)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            self._answered = True
            if len(part):
                self._buffer[self._done : self._done + len(part)] = np.frombuffer(part, np.uint8)
                self._done += len(part)
                self._progress = time.monotonic()
                self._tell()
        return None if self._done == len(self._buffer) else failure

    def _wait(self, failure: Exception) -> None:
        """Pause before the next attempt; the StoreError when there is none."""
        if not is_store_fault(failure):
            raise failure
        doing = f"read {len(self._buffer)} bytes at offset {self._start}"
        fault, found = classify(failure)
        if not fault.may_pass:
            with translated(self._url, doing, self._source.where):
                raise failure
        # A connection that broke after giving something says nothing against the next one, made at once; a store
        # that gives nothing is left alone for longer and longer, by every reader for a time of its own.
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._in_vain - 1)) if self._in_vain else 0.0
        pause_s = _jitter.uniform(0.0, longest_s)
        now = time.monotonic()
        if now + pause_s - self._progress > RANGE_BUDGET_S:
            at = f" at {self._source.where}" if self._source.where else ""
            raise StoreError(
                f"{self._url}: cannot {doing}{at}: got {self._done} bytes in {self._attempt} attempts and "
                f"{now - self._begun:.0f} s, none in the last {now - self._progress:.0f} s; the last failure was: "
                f"{found}; {fault.value}"
            ) from failure
        if pause_s:
            time.sleep(pause_s)

    def finish(self) -> None:
        """Bring all bytes of the range."""
        before = 0
        while (failure := self._try()) is not None:
            if self._done > before:
                self._in_vain = 0
            elif self._cautious or not self._answered:
                self._in_vain += 1
            # An answer that broke off while it was gathered may have been worth something: the next shows.
            self._cautious = self._cautious or self._done == before
            before = self._done
            self._wait(failure)


def _read_local(url: str, start: int, into: memoryview) -> None:
    """A range of a local file, in one read."""
    length, done = len(into), 0
    with translated(url, f"read {length} bytes at offset {start}"):
        file = os.open(connections.path_of(url), os.O_RDONLY)
        try:
            while done < length:  # Linux reads at most 2 GiB at once
                num = os.preadv(file, [into[done:]], start + done)
                if not num:
                    raise _cut_short(url, start, start + length, os.fstat(file).st_size)
                done += num
        finally:
            os.close(file)


def read_whole(url: str) -> bytes:
    """A whole file or object that fits in memory; asked for again while the store falters, for about a minute."""
    filesystem, path, where = connections.opened(url)
    begun, longest_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            if connections.is_s3(url):
                return bytes(connections.bucket_of(url).bodies.get(path.partition("/")[2]).bytes())
            data: bytes = filesystem.cat_file(path)
            return data
        except Exception as error:
            pause_s = _jitter.uniform(0.0, longest_s)
            is_over = time.monotonic() + pause_s - begun > RANGE_BUDGET_S
            if is_over or not is_store_fault(error) or not classify(error)[0].may_pass:
                with translated(url, "read", where):
                    raise
        time.sleep(pause_s)
        longest_s = min(2 * longest_s, _LONGEST_PAUSE_S)


class RangedFile:
    """One file or object from which ranges are read, all of the same version where the store tells versions apart."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._source: _Source | None = None
        if not connections.is_local(url):
            self._source = _S3Source(url) if connections.is_s3(url) else _FileSource(url)

    def read_into(self, start: int, into: memoryview, watch: Watch | None = None) -> None:
        """Fill `into` (writable, of bytes) from `start` on; see `read_buffer`."""
        if not len(into):
            return
        if self._source is not None:
            _Reading(self.url, self._source, start, into, watch).finish()
            return
        if watch is not None:
            watch(0, 1)
        _read_local(self.url, start, into)
        if watch is not None:
            watch(len(into), 1)

    def read(self, start: int, length: int, watch: Watch | None = None) -> memoryview:
        """Exactly `length` bytes from `start`, read-only; see `read_buffer`."""
        buffer: memoryview = np.empty(length, np.uint8).data
        self.read_into(start, buffer, watch)
        return buffer.toreadonly()


def read_into(url: str, start: int, into: memoryview, *, watch: Watch | None = None) -> None:
    """Like `read_buffer`, into memory of the caller's."""
    RangedFile(url).read_into(start, into, watch)


def read_buffer(url: str, start: int, length: int, *, watch: Watch | None = None) -> memoryview:
    """Exactly `length` bytes from `start`, continued where the body breaks until a minute brings nothing.

    What cannot pass (no such name, no access, a range outside the file) is a StoreError at once. Local files are
    read once, and `watch` is told before and after.
    """
    return RangedFile(url).read(start, length, watch)


def read_range(url: str, start: int, length: int) -> bytes:
    """Like `read_buffer`, as bytes of their own."""
    return bytes(read_buffer(url, start, length))
