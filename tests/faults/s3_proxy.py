#!/usr/bin/env python3
"""Stands between an S3 client and a real server and misbehaves on request: resets, cut bodies, flipped bits, 503s.

In: requests for the server at --upstream, forwarded as they are (Host included, so that signatures hold). Out: the
server's answers; to a GET of an object (not a listing, a HEAD or a write) with these faults, each a share from 0 to 1:

    python tests/faults/s3_proxy.py --upstream http://127.0.0.1:8000 --port 8001 --resets 0.01 --errors 0.02 &

  resets     the connection is reset in the middle of the body
  truncated  the connection is closed in the middle of the body as if nothing were wrong
  flipped    one bit of the body is another one
  stalls     no byte comes for --stall-s in the middle of the body, then it goes on
  errors     503 SlowDown, in bursts of --burst GETs in a row
  --slow-kbps N   kB/s of every such body (0: as fast as it comes)
What happens to the n-th GET depends on --seed and n alone, so a range asked for again is as likely to be hit again.
GET /__faults__ tells what was done so far, as JSON; /__faults__/off and /__faults__/on switch. While off GETs are not
numbered. --counts FILE gets the same JSON when the proxy is ended by SIGTERM. In tests: `with FaultProxy(...)`.

A body of which the server does not say the length has no fault. Splicing bodies from socket to socket, without copies,
was tried: with 8 readers on 2 cores it was no faster than reading into a buffer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults.http_wire import BrokenOffError, Head, Wire
from tests.faults.s3_faults import HARMLESS, KINDS, Fate, Faults, asks_for_object, fate

CONTROL = "/__faults__"
PIECE_BYTES = 1 << 18

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class _Pair:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, proxy: Proxy, closing: ExitStack) -> None:
        self._client = Wire(closing.enter_context(client))
        self._proxy = proxy
        self._closing = closing
        self._server: Wire | None = None
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    def serve(self) -> None:
        """Answer requests until one side goes."""
        while True:
            request = self._client.head()
            method, target = request.words[0], request.words[1]
            if target.startswith(CONTROL):
                self._answer(200, self._proxy.control(target))
                continue
            happens = self._proxy.next_fate(asks_for_object(method, target))
            if happens.kind == "errors":
                self._proxy.count("errors")
                self._answer(503, _SLOW_DOWN)
                continue
            answer = self._ask(request)
            self._client.sock.sendall(answer.raw)
            self._relay_answer(method, answer, happens)
            if "close" in (request.headers.get("connection", "").lower(), answer.headers.get("connection", "").lower()):
                return

    def _answer(self, status: int, body: bytes) -> None:
        """An answer of the proxy's own."""
        words, kind = ("Slow Down", "application/xml") if status == 503 else ("OK", "application/json")
        head = f"HTTP/1.1 {status} {words}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._client.sock.sendall(head.encode() + body)

    def _connect(self) -> Wire:
        server = socket.create_connection(self._proxy.upstream)
        self._server = Wire(self._closing.enter_context(server))
        return self._server

    def _ask(self, request: Head) -> Head:
        """Forward a request; the head of the final answer."""
        has_body = request.chunked or bool(request.length)
        fresh, server = self._server is None, self._server or self._connect()
        try:
            server.sock.sendall(request.raw)
            if has_body and "expect" not in request.headers:
                self._relay(self._client, server, request)
            answer = server.head()
        except OSError:
            # The server may close a connection it has not been asked anything on for a while.
            if fresh or has_body:
                raise
            server = self._connect()
            server.sock.sendall(request.raw)
            answer = server.head()
        while answer.words[1] == "100":
            self._client.sock.sendall(answer.raw)
            self._relay(self._client, server, request)
            answer = server.head()
        return answer

    def _relay_answer(self, method: str, answer: Head, happens: Fate) -> None:
        """The body of an answer, if it has one, with the request's fault in it."""
        status, server = int(answer.words[1]), self._server
        assert server is not None
        if method == "HEAD" or status in {204, 304}:
            return
        if status not in {200, 206} or not answer.length:
            happens = HARMLESS
        if not happens.kind:
            self._relay(server, self._client, answer, happens.kbps)
            return
        length = answer.length or 0
        before = int(length * happens.place)
        self._copy(server, self._client, before, happens.kbps)
        self._proxy.count(happens.kind)
        if happens.kind == "resets":
            self._client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if happens.kind in {"resets", "truncated"}:
            raise BrokenOffError(happens.kind)
        if happens.kind == "stalls":
            time.sleep(self._proxy.faults.stall_s)
        if happens.kind == "flipped":
            self._client.sock.sendall(bytes([server.byte() ^ 1 << happens.bit]))
            before += 1
        self._copy(server, self._client, length - before, happens.kbps)

    def _relay(self, source: Wire, target: Wire, head: Head, kbps: float = 0.0) -> None:
        """The body that belongs to `head`."""
        if not head.chunked:
            self._copy(source, target, sys.maxsize if head.length is None else head.length, kbps)
            return
        num_bytes = 1
        while num_bytes:
            line = source.until(b"\r\n")
            num_bytes = int(line.split(b";")[0], 16)
            target.sock.sendall(line)
            self._copy(source, target, num_bytes, kbps)
            target.sock.sendall(source.until(b"\r\n"))  # behind the last chunk too: nobody here sends trailers

    def _copy(self, source: Wire, target: Wire, num_bytes: int, kbps: float = 0.0) -> None:
        """So many bytes of a body."""
        data = source.kept(num_bytes)
        target.sock.sendall(data)
        # When slow, a tenth of a second's worth at once.
        left, piece = num_bytes - len(data), min(PIECE_BYTES, max(int(kbps * 100), 1)) if kbps else PIECE_BYTES
        while left:
            num = source.sock.recv_into(self._buffer, min(left, piece))
            if not num:
                raise BrokenOffError("closed")
            left -= num
            if kbps:
                time.sleep(num / kbps / 1e3)
            target.sock.sendall(self._buffer[:num])


class Proxy:
    """Accepts connections, a thread for each; knows what was done."""

    def __init__(self, upstream: str, port: int, faults: Faults) -> None:
        address = urlsplit(upstream)
        self.upstream = (address.hostname or "", address.port or 80)
        self.faults = faults
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._on = True
        self._counts: Counter[str] = Counter()

    def serve_forever(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as closing:
            _Pair(client, self, closing).serve()

    def next_fate(self, is_get: bool) -> Fate:
        """What happens to the request that has just come."""
        with self._lock:
            self._counts["requests"] += 1
            if not (is_get and self._on):
                return HARMLESS
            self._counts["gets"] += 1
            return fate(self.faults, self._counts["gets"] - 1)

    def count(self, kind: str) -> None:
        with self._lock:
            self._counts[kind] += 1

    def control(self, target: str) -> bytes:
        """Obey and tell the counts."""
        with self._lock:
            if target in {f"{CONTROL}/on", f"{CONTROL}/off"}:
                self._on = target == f"{CONTROL}/on"
            return self.counts_json()

    def counts_json(self) -> bytes:
        """What was done so far."""
        return json.dumps({kind: self._counts[kind] for kind in ("requests", "gets", "errors", *KINDS)}).encode()


class FaultProxy:
    """The proxy in a process of its own, so that it does not share the interpreter's lock with the client."""

    def __init__(self, upstream: str, faults: Faults) -> None:
        self._command = [sys.executable, str(Path(__file__).resolve()), "--upstream", upstream, "--port", "0"]
        for name, value in asdict(faults).items():
            self._command += [f"--{name.replace('_', '-')}", str(value)]
        self.url = ""

    def __enter__(self) -> FaultProxy:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def _control(self, what: str) -> dict[str, int]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}{CONTROL}{what}", timeout=10) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts

    def counts(self) -> dict[str, int]:
        """What was done so far: requests, those that were GETs of objects while on, and faults by kind."""
        return self._control("")

    def on(self) -> None:
        """Misbehave again."""
        self._control("/on")

    def off(self) -> None:
        """Only pass on, without numbering GETs."""
        self._control("/off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, help="URL of the server")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one, the output tells")
    parser.add_argument("--counts", type=Path, help="file for the counts")
    for field in fields(Faults):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    faults = Faults(**{field.name: options[field.name] for field in fields(Faults)})
    proxy = Proxy(options["upstream"], options["port"], faults)

    def end(*_: object) -> None:
        if options["counts"] is not None:
            options["counts"].write_bytes(proxy.counts_json())
        # Threads that wait for a socket or stall are not waited for.
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    print(f"http://127.0.0.1:{proxy.port}", flush=True)
    proxy.serve_forever()


if __name__ == "__main__":
    main()
