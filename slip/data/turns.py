"""Threads that each read a stream of samples, dealt out in batches: from the threads in turns, whoever was first.

So the order of the samples is a function of the streams alone, not of time. A thread blocks in `put` when enough of its
samples wait; `request` returns at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace

from slip.data.samples import RawSample, Window

_QUEUE_SAMPLES = 4096
"""Samples that wait for a batch, of all threads together and whatever their size."""


class Stopped(Exception):  # noqa: N818
    """Raised in a reader thread whose samples nobody wants any more."""


class Reader:
    """One thread's finished samples, which `Turns` guards, and where it stands, which the thread writes."""

    def __init__(self) -> None:
        self.queue: deque[RawSample] = deque()
        self.queued_bytes = 0
        self.url = ""
        self.num_read = 0
        self.heard = time.monotonic()


class Turns:
    """Takes samples from several threads in turns and deals them out in batches of `size`."""

    def __init__(self, *, threads: int, size: int, queue_bytes: int) -> None:
        self.readers = tuple(Reader() for _ in range(threads))
        self._size = size
        self._most_bytes = queue_bytes // threads
        self._most_samples = -(-_QUEUE_SAMPLES // threads)
        self._changed = threading.Condition()
        self._turn = 0
        self._batch: list[RawSample] = []
        self._wanted: deque[tuple[Future[Window], int]] = deque()
        self._error: BaseException | None = None
        self._closed = False

    @property
    def stopped(self) -> bool:
        return self._closed or self._error is not None

    def put(self, reader: Reader, sample: RawSample) -> None:
        """Hand over a thread's next sample; blocks while its queue is full, raises Stopped after close or fail."""
        num_bytes = len(sample.image)
        with self._changed:
            # One sample always fits: the thread whose turn it is must never wait for the others.
            while not self.stopped and (
                len(reader.queue) >= self._most_samples
                or (reader.queue and reader.queued_bytes + num_bytes > self._most_bytes)
            ):
                self._changed.wait()
            if self.stopped:
                raise Stopped
            reader.queue.append(sample)
            reader.queued_bytes += num_bytes
            self._deal()

    def request(self, first_id: int) -> Future[Window]:
        """The next batch; its samples get the ids from `first_id` on."""
        future: Future[Window] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the source was closed")
            if self._error is not None:
                future.set_exception(self._error)
            else:
                self._wanted.append((future, first_id))
                self._deal()
        return future

    def _deal(self) -> None:
        taken = False
        while self._wanted and (reader := self.readers[self._turn]).queue:
            future, first_id = self._wanted[0]
            sample = reader.queue.popleft()
            reader.queued_bytes -= len(sample.image)
            self._batch.append(replace(sample, sample_id=first_id + len(self._batch)))
            self._turn = (self._turn + 1) % len(self.readers)
            taken = True
            if len(self._batch) == self._size:
                self._wanted.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_result(tuple(self._batch))
                self._batch = []
        if taken:
            self._changed.notify_all()

    def waiting(self) -> tuple[int, Reader] | None:
        """The thread a batch waits for; None when none does."""
        with self._changed:
            return (self._turn, self.readers[self._turn]) if self._wanted else None

    def fail(self, error: BaseException) -> None:
        """Let every batch that is not complete raise `error`, and end the threads."""
        with self._changed:
            self._error = self._error or error
            for future, _ in self._wanted:
                if future.set_running_or_notify_cancel():
                    future.set_exception(self._error)
            self._wanted.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel every batch that is not complete, and end the threads."""
        with self._changed:
            self._closed = True
            for future, _ in self._wanted:
                future.cancel()
                future.set_running_or_notify_cancel()
            self._wanted.clear()
            self._changed.notify_all()
