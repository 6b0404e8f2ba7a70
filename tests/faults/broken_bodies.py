"""An HTTP server of one object that breaks its answers off as told, for tests of who continues them.

In: the object's bytes and a list of what to do with the first GETs; later ones are answered well. Out: a URL, and
which ranges were asked for. It is S3 as far as reading without checking signatures goes.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of one GET."""

    kind: str = "good"
    """good, reset, closed (early), stall, slow (1 % of the body every 0.05 s), whole (no range), or a status."""
    after: int = 0
    """Bytes of the body that come before it happens."""
    tag: str = "first"
    """The ETag."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # A connection that is kept waits for its next request in a thread of its own.
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_HEAD(self) -> None:
        headers = {"ETag": '"first"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Accept-Ranges": "bytes"}
        self._head(200, len(self.server.data), headers)

    def do_GET(self) -> None:
        data, wanted = self.server.data, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, len(data))
        answer = self.server.next_answer(start, end)
        end = min(end, len(data))
        if answer.kind.isdigit() or start >= end:
            self._head(int(answer.kind) if answer.kind.isdigit() else 416, 0, {})
            return
        headers = {"ETag": f'"{answer.tag}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        if answer.kind == "whole" or not wanted:
            start, end = 0, len(data)
            self._head(200, end, headers)
        else:
            self._head(206, end - start, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})
        body = memoryview(data)[start:end]
        if answer.kind in {"good", "whole"}:
            self.wfile.write(body)
        elif answer.kind == "slow":
            step = max(len(body) // 100, 1)
            for at in range(0, len(body), step):
                self.server.ending.wait(0.05)
                self.wfile.write(body[at : at + step])
        else:
            self._break_off(body, answer)

    def _break_off(self, body: memoryview, answer: Answer) -> None:
        self.wfile.write(body[: answer.after])
        self.close_connection = True
        if answer.kind == "stall":
            self.server.ending.wait(30)
        elif answer.kind == "reset":
            self.server.ending.wait(0.02)  # a reset overtakes what the client has not read yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, data: bytes, answers: Iterable[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data, self.ending = data, threading.Event()
        self.asked: list[tuple[int, int]] = []
        self._answers, self._lock = iter(answers), threading.Lock()

    def next_answer(self, start: int, end: int) -> Answer:
        with self._lock:
            self.asked.append((start, end))
            return next(self._answers, Answer())

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        request.close()  # a shutdown first would say goodbye where a reset is wanted

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client goes away in the middle of an answer when it gives up


class BrokenBodies:
    """The server, running inside `with`."""

    def __init__(self, data: bytes, answers: Iterable[Answer] = ()) -> None:
        self._server = _Server(data, answers)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def asked(self) -> list[tuple[int, int]]:
        """Ranges asked for so far, [start, end)."""
        return self._server.asked

    def __enter__(self) -> BrokenBodies:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.ending.set()
        self._server.shutdown()
        self._server.server_close()
