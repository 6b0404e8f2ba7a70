"""One side of an HTTP/1.1 connection: heads are parsed, bodies are left to whoever moves them.

In: a connected socket. Out: heads, and the bytes of a body that were read together with them.
"""

from __future__ import annotations

import socket
from typing import NamedTuple


class Head(NamedTuple):
    """First line and headers of a request or an answer, as they came and taken apart."""

    raw: bytes
    words: list[str]
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        return int(self.headers["content-length"]) if "content-length" in self.headers else None


class BrokenOffError(OSError):
    """One side is gone, or the fault of this request was to end the connection."""


class Wire:
    """One side of a connection: a socket and what has been read from it too early."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._kept = b""

    def _more(self) -> None:
        data = self.sock.recv(65_536)
        if not data:
            raise BrokenOffError("closed")
        self._kept += data

    def until(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        while (at := self._kept.find(end)) < 0:
            self._more()
        found, self._kept = self._kept[: at + len(end)], self._kept[at + len(end) :]
        return found

    def head(self) -> Head:
        """The head that comes next."""
        raw = self.until(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        pairs = (line.partition(":") for line in lines)
        return Head(raw, first.split(" ", 2), {name.strip().lower(): value.strip() for name, _, value in pairs})

    def byte(self) -> int:
        """The next byte."""
        data = self.kept(1) or self.sock.recv(1)
        if not data:
            raise BrokenOffError("closed")
        return data[0]

    def kept(self, most: int) -> bytes:
        """What has been read already, at most so many bytes."""
        found, self._kept = self._kept[:most], self._kept[most:]
        return found
