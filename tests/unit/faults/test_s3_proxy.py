"""The proxy does to a body what it says, to nothing else, and counts it."""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults import s3_proxy
from tests.faults.s3_faults import KINDS, Faults, asks_for_object, fate
from tests.faults.s3_proxy import FaultProxy

BODY = random.Random(0).randbytes(300_000)
OBJECT = "/bucket/a.tar"
LISTING = "/bucket?list-type=2"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _send(self, status: int, body: bytes, *, announced: bool = True) -> None:
        self.send_response(status)
        if announced:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n7;x=y\r\n chunks\r\n0\r\n\r\n" % (len(body), body)
        self.send_header("X-Host", self.headers["Host"])
        self.send_header("X-Connection", str(self.client_address[1]))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def do_GET(self) -> None:
        if self.path == "/bucket/missing":
            self._send(404, b"no such key")
        else:
            self._send(200, BODY, announced=self.path != "/bucket/chunked")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        """Answers with what was sent."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            self._send(200, self.rfile.read(int(self.headers["Content-Length"])))
            return
        parts = []
        while num_bytes := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(num_bytes + 2)[:-2])
        self.rfile.readline()
        self._send(200, b"".join(parts))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def connected(proxy: FaultProxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=20)


def ask(proxy: FaultProxy, target: str = OBJECT, method: str = "GET") -> http.client.HTTPResponse:
    connection = connected(proxy)
    connection.request(method, target)
    return connection.getresponse()


def read(proxy: FaultProxy, target: str = OBJECT) -> bytes:
    with ask(proxy, target) as answer:
        return answer.read()


def test_without_faults_connections_stay_and_nothing_changes(upstream: str) -> None:
    with FaultProxy(upstream, Faults()) as proxy:
        connection = connected(proxy)
        used = set()
        for target, expected in ((OBJECT, BODY), ("/bucket/chunked", BODY + b" chunks"), (LISTING, BODY)):
            connection.request("GET", target, headers={"Host": "signed.example"})
            answer = connection.getresponse()
            assert answer.read() == expected
            assert answer.headers["X-Host"] == "signed.example"
            used.add((answer.headers["X-Connection"], connection.sock.getsockname()))
        assert len(used) == 1, "a connection was not kept"
        assert proxy.counts() == {"requests": 3, "gets": 2, "errors": 0} | dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize("expect", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_written_arrives(upstream: str, expect: bool, chunked: bool) -> None:
    with FaultProxy(upstream, Faults(resets=1.0)) as proxy:
        connection = connected(proxy)
        headers = {"Expect": "100-continue"} if expect else {}
        parts = (BODY[:100_000], BODY[100_000:])
        connection.request("PUT", OBJECT, iter(parts) if chunked else BODY, headers, encode_chunked=chunked)
        assert connection.getresponse().read() == BODY
        connection.request("HEAD", OBJECT)
        assert connection.getresponse().headers["Content-Length"] == str(len(BODY))


def test_resets(upstream: str) -> None:
    with FaultProxy(upstream, Faults(resets=1.0)) as proxy:
        with ask(proxy) as answer, pytest.raises(ConnectionResetError):
            answer.read()
        assert proxy.counts()["resets"] == 1


def test_truncated(upstream: str) -> None:
    with FaultProxy(upstream, Faults(truncated=1.0)) as proxy:
        with ask(proxy) as answer, pytest.raises(http.client.IncompleteRead) as error:
            answer.read()
        assert error.value.partial == BODY[: len(error.value.partial)]
        assert proxy.counts()["truncated"] == 1


def test_flipped(upstream: str) -> None:
    with FaultProxy(upstream, Faults(flipped=1.0)) as proxy:
        for _ in range(3):
            found = read(proxy)
            assert len(found) == len(BODY)
            assert sum((a ^ b).bit_count() for a, b in zip(found, BODY, strict=True)) == 1
        assert proxy.counts()["flipped"] == 3


def test_stalls_end(upstream: str) -> None:
    with FaultProxy(upstream, Faults(stalls=1.0, stall_s=0.1)) as proxy:
        assert read(proxy) == BODY
        assert proxy.counts()["stalls"] == 1


def test_nothing_comes_during_a_stall(upstream: str) -> None:
    with FaultProxy(upstream, Faults(stalls=1.0, stall_s=60.0)) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=0.5)
        connection.request("GET", OBJECT)
        with pytest.raises(TimeoutError):
            connection.getresponse().read()


def test_slow(upstream: str) -> None:
    with FaultProxy(upstream, Faults(slow_kbps=1000.0)) as proxy:
        begin = time.monotonic()
        assert read(proxy) == BODY
        # 300 kB take 0.3 s; what is read together with the head is not slowed. The only way to see slowness.
        assert time.monotonic() - begin > 0.2


def test_errors_come_in_bursts_and_keep_the_connection(upstream: str) -> None:
    faults = Faults(errors=0.5, burst=5, seed=3)
    with FaultProxy(upstream, faults) as proxy:
        connection = connected(proxy)
        statuses = []
        for _ in range(60):
            connection.request("GET", OBJECT)
            answer = connection.getresponse()
            statuses.append(answer.status)
            body = answer.read()
            assert body == BODY if answer.status == 200 else b"SlowDown" in body
        assert proxy.counts()["errors"] == statuses.count(503)
    bursts = [statuses[i : i + 5] for i in range(0, 60, 5)]
    assert all(len(set(burst)) == 1 for burst in bursts)
    assert {200, 503} == set(statuses)


@pytest.mark.parametrize(("method", "target"), [("GET", LISTING), ("HEAD", OBJECT), ("GET", "/bucket/missing")])
def test_only_reads_of_objects_are_hit(upstream: str, method: str, target: str) -> None:
    with FaultProxy(upstream, Faults(resets=1.0)) as proxy:
        with ask(proxy, target, method) as answer:
            assert answer.read() == {LISTING: BODY, OBJECT: b"", "/bucket/missing": b"no such key"}[target]
        assert proxy.counts()["resets"] == 0


def test_switched_off_and_on(upstream: str) -> None:
    with FaultProxy(upstream, Faults(errors=1.0)) as proxy:
        proxy.off()
        assert read(proxy) == BODY
        proxy.on()
        assert b"SlowDown" in read(proxy)
        assert (proxy.counts()["gets"], proxy.counts()["errors"]) == (1, 1)


def test_same_order_same_faults_and_counts(upstream: str) -> None:
    faults = Faults(seed=5, resets=0.2, truncated=0.2, flipped=0.2, errors=0.2, burst=2)
    expected = [fate(faults, number).kind for number in range(40)]
    with FaultProxy(upstream, faults) as proxy:
        found = []
        for _ in expected:
            with ask(proxy) as answer:
                try:
                    body = answer.read()
                except ConnectionResetError:
                    found.append("resets")
                except http.client.IncompleteRead:
                    found.append("truncated")
                else:
                    found.append("errors" if answer.status == 503 else "" if body == BODY else "flipped")
        counts = proxy.counts()
    assert found == expected
    assert {kind: counts[kind] for kind in ("errors", *KINDS)} == {
        kind: expected.count(kind) for kind in ("errors", *KINDS)
    }


def test_counts_are_left_when_ended(upstream: str, tmp_path: Path) -> None:
    command = [sys.executable, s3_proxy.__file__, "--upstream", upstream, "--port", "0", "--truncated", "1"]
    process = subprocess.Popen([*command, "--counts", str(tmp_path / "counts.json")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    connection = http.client.HTTPConnection(urlsplit(process.stdout.readline().strip()).netloc, timeout=20)
    connection.request("GET", OBJECT)
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert json.loads((tmp_path / "counts.json").read_text())["truncated"] == 1


def test_shares_are_as_asked() -> None:
    faults = Faults(seed=1, resets=0.01, truncated=0.02, flipped=0.03, stalls=0.04, errors=0.1, burst=7)
    kinds = Counter(fate(faults, number).kind for number in range(100_000))
    for kind in KINDS:
        # Those answered 503 cannot be hit again.
        assert kinds[kind] / 90_000 == pytest.approx(getattr(faults, kind), rel=0.1)
    assert kinds["errors"] / 100_000 == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("target", "is_object"),
    [
        ("/bucket/folder/a.tar", True),
        ("/bucket/a.tar?x-id=GetObject", True),
        ("/bucket/a.tar?X-Amz-Signature=12&X-Amz-Date=3", True),
        ("/bucket/a.tar?uploads", False),
        ("/bucket/", False),
        ("/bucket?list-type=2&prefix=a", False),
        ("/bucket?location", False),
    ],
)
def test_what_counts_as_reading_an_object(target: str, is_object: bool) -> None:
    assert asks_for_object("GET", target) is is_object
    assert not asks_for_object("HEAD", target)
