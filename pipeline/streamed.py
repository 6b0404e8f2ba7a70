"""A whole file or object as one stream of bytes, of any size in bounded memory, from any store.

In comes a URL, out something that reads like an open file. Its pieces are read ahead through `pipeline.ranged`, so a
connection that breaks is continued where it broke, on S3 from the same version of the object only.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline import connections
from pipeline.errors import StoreError
from pipeline.ranged import RangedFile

PIECE_BYTES = 8 << 20
"""Bytes asked for at once."""

PIECES_AHEAD = 2
"""Pieces on their way while one is being used."""


class _Pieces(io.RawIOBase):
    """A whole file from its beginning to its end, a few pieces of it in memory."""

    def __init__(self, file: RangedFile, num_bytes: int) -> None:
        super().__init__()
        self._file, self._num_bytes, self._asked = file, num_bytes, 0
        self._threads = ThreadPoolExecutor(PIECES_AHEAD, thread_name_prefix="stream")
        self._coming: deque[Future[memoryview]] = deque()
        self._piece = memoryview(b"")

    def _go_on(self, num_bytes: int, attempt: int) -> None:
        if self.closed:
            raise StoreError(f"{self._file.url}: closed while it was being read")

    def _ask(self) -> None:
        """Keep the pieces that follow on their way."""
        while len(self._coming) < PIECES_AHEAD and self._asked < self._num_bytes:
            length = min(PIECE_BYTES, self._num_bytes - self._asked)
            self._coming.append(self._threads.submit(self._file.read, self._asked, length, self._go_on))
            self._asked += length

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        """Fill a buffer as far as the piece at hand goes; 0 at the end."""
        if not self._piece:
            self._ask()
            if not self._coming:
                return 0
            self._piece = self._coming[0].result()  # what failed stays where it is and fails again
            self._coming.popleft()
            self._ask()
        count = min(len(target), len(self._piece))
        target[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def close(self) -> None:
        """End the reads ahead."""
        if not self.closed:
            super().close()
            self._coming.clear()
            self._threads.shutdown(wait=False, cancel_futures=True)


class Stream(io.BufferedReader):
    """A file or object read once from beginning to end; not seekable, for one thread at a time."""

    size: int
    """Bytes of the whole file."""

    def __init__(self, file: RangedFile, num_bytes: int) -> None:
        super().__init__(_Pieces(file, num_bytes), 128 << 10)
        self.size = num_bytes


def open_stream(url: str) -> Stream:
    """One pass over a whole file or object of any size, continued like `read_buffer` where it breaks.

    Pieces are read ahead: up to three of 8 MiB are in memory.
    """
    num_bytes = connections.size(url)
    if num_bytes is None:
        raise StoreError(f"{url}: cannot read: it does not exist, or its server does not say how long it is")
    return Stream(RangedFile(url), num_bytes)
