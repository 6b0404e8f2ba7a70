"""Memory that is read into, used again when nobody looks at it any more.

A window of samples is megabytes, and memory fresh from the system costs more than the bytes that are read into it: each
page is cleared and mapped when it is first written. (Reading 54 kB a sample from a local page cache took 43 us into
fresh memory and 11 us into memory in use.)
"""

from __future__ import annotations

import threading

_STEP_BYTES = 1 << 20
"""Sizes are rounded up to this, so that windows of nearly equal sizes can follow each other."""


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of the buffer is left: Python refuses to resize a bytearray of which there is one."""
    try:
        buffer.pop()
    except BufferError:
        return False
    buffer.append(0)
    return True


class BufferPool:
    """Hands out memory, and takes it back by itself when the last view of it is gone. Safe to use from several threads.

    It never holds more than was in use at once, and gives up what is too small before it takes more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: list[bytearray] = []

    def take(self, num_bytes: int) -> memoryview:
        """Writable memory of that size, its content is left from earlier use."""
        with self._lock:
            small = None
            for place, buffer in enumerate(self._buffers):
                if _is_free(buffer):
                    if len(buffer) >= num_bytes:
                        # The longest unused goes to the end: the others are likelier to be free.
                        self._buffers.append(self._buffers.pop(place))
                        return memoryview(buffer)[:num_bytes]
                    small = place
            if small is not None:
                del self._buffers[small]
            self._buffers.append(bytearray(-(-max(num_bytes, 1) // _STEP_BYTES) * _STEP_BYTES))
            return memoryview(self._buffers[-1])[:num_bytes]

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        with self._lock:
            return sum(map(len, self._buffers))
