"""Pictures and samples read back: from a unit's fetched tar by offset, from a sealed shard in bounded pieces.

In: where something lies. Out: its bytes, checked by whoever knows the digest. No tar header is parsed, at most
`PIECE_BYTES` and one span are held in memory, and what a store fails to give is asked for again by
`pipeline.store`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline import store
from pipeline.errors import ShardError
from pipeline.store_faults import translated

PIECE_BYTES = 8 << 20
"""Bytes asked for at once: large enough for a request's latency not to matter."""


class PictureFile:
    """A tar of fetched pictures, read by offset; every picture is compared with its digest."""

    def __init__(self, path: Path, advice: str) -> None:
        self._path, self._advice = path, advice
        if not path.exists():
            raise ShardError(f"{path}: the unit's pictures are gone; {advice}")
        with translated(str(path), "read"):
            self._file = path.open("rb", buffering=0)

    def read(self, key: str, offset: int, num_bytes: int, sha256: str) -> bytes:
        """The picture of the sample `key`; ShardError when it is not what was fetched."""
        with translated(str(self._path), "read"):
            self._file.seek(max(offset, 0))
            data = self._file.read(num_bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ShardError(
                f"{self._path}: the picture of key {key} at byte {offset} has sha256 {found}, fetching noted {sha256}; "
                f"{self._advice}"
            )
        return data

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def pieces(url: str, num_bytes: int) -> Iterator[bytes]:
    """The first `num_bytes` of a file or object, piece by piece."""
    for start in range(0, num_bytes, PIECE_BYTES):
        yield store.read_range(url, start, min(PIECE_BYTES, num_bytes - start))


def read_spans(url: str, num_bytes: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of each (offset, size), ascending and apart, of a file of `num_bytes`.

    Neighbours are read together. A span that reaches beyond the end comes back short, for its digest to tell.
    """
    waiting: list[tuple[int, int]] = []
    for offset, size in spans:
        if waiting and offset + size - waiting[0][0] > PIECE_BYTES:
            yield from _cut(url, num_bytes, waiting)
            waiting = []
        waiting.append((offset, size))
    yield from _cut(url, num_bytes, waiting)


def _cut(url: str, num_bytes: int, spans: list[tuple[int, int]]) -> Iterator[bytes]:
    """Spans next to each other, by one read."""
    if not spans:
        return
    first, end = spans[0][0], min(num_bytes, sum(spans[-1]))
    data = memoryview(store.read_range(url, first, max(0, end - first)))
    for offset, size in spans:
        yield bytes(data[offset - first : offset - first + size])
