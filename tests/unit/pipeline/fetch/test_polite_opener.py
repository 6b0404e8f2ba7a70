from __future__ import annotations

import http.client
import pickle
import socket
import struct
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import pytest

from pipeline.fetch import polite_opener
from pipeline.fetch.polite import DEADLINE_OVER, HOST_ASKS_FOR_PAUSE, TOO_LONG, TOO_SLOW, PoliteSettings, RefusedError
from pipeline.fetch.polite_opener import PoliteDownloader, PoliteOpener
from pipeline.fetch.sources import classify_error
from pipeline.records import Reason


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.active = self.most_active = 0
        self.lock = threading.Lock()
        self.open = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients hang up here


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says what to do."""

    server: Server

    def do_GET(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        with server.lock:
            server.asked[path] += 1
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        try:
            kind, _, rest = path.lstrip("/").partition("/")
            getattr(self, f"answer_{kind}")(rest)
        finally:
            with server.lock:
                server.active -= 1

    def send(self, status: int, body: bytes = b"", announced: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self, rest: str) -> None:
        self.send(200, b"x" * 100_000)

    def answer_held(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.flush()
        self.server.open.wait(20)
        self.wfile.write(b"held")

    def answer_status(self, rest: str) -> None:
        self.send(int(rest.split("/")[0]))

    def answer_busy(self, rest: str) -> None:
        self.send(503, Retry_After="1000")

    def answer_cut(self, rest: str) -> None:
        self.send(200, b"x" * 10, announced=50)

    def answer_reset(self, rest: str) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer_robots(self, rest: str) -> None:
        self.send(200, b"x", X_Robots_Tag="noai")

    def answer_drip(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.02)

    def answer_chunked(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        whole = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        self.wfile.write(whole if rest == "whole" else whole[:-12])

    def answer_to(self, rest: str) -> None:
        self.send(302, Location=f"/{rest}")

    def answer_elsewhere(self, rest: str) -> None:
        self.send(302, Location=f"http://localhost:{self.server.server_port}/{rest}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()


def opener(tmp_path: Path, **settings: Any) -> PoliteOpener:
    defaults = {"per_host": 8, "timeout_s": 5.0, "deadline_s": 600.0, "heartbeat": str(tmp_path / "beat")}
    return PoliteOpener(PoliteSettings(**{**defaults, **settings}))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polite_opener, "RETRY_PAUSE_S", 0.001)


def get(opener: PoliteOpener, url: str, timeout: float = 5.0) -> bytes:
    with opener.open(urllib.request.Request(url), None, timeout) as answer:
        return bytes(answer.read())


def message(opener: PoliteOpener, url: str, timeout: float = 5.0) -> str:
    """The text img2dataset would note."""
    with pytest.raises((OSError, http.client.HTTPException)) as caught:
        get(opener, url, timeout)
    return str(caught.value)


def test_bodies_come_whole(server: Server, tmp_path: Path) -> None:
    polite = opener(tmp_path)
    assert get(polite, f"{server.url}/good/1") == b"x" * 100_000
    assert get(polite, f"{server.url}/chunked/whole") == b"hello world"
    assert get(polite, f"{server.url}/to/good/2") == b"x" * 100_000
    assert get(polite, f"{server.url}/elsewhere/good/3") == b"x" * 100_000
    assert polite._hosts._hosts == {}, "every turn was given back"


@pytest.mark.parametrize(("path", "expected"), [("cut/1", "40 more expected"), ("chunked/cut", "IncompleteRead")])
def test_bodies_that_end_early_are_noticed_and_asked_for_again(
    path: str, expected: str, server: Server, tmp_path: Path
) -> None:
    polite = opener(tmp_path)
    for _ in range(3):
        text = message(polite, f"{server.url}/{path}")
        assert expected in text
        assert classify_error(text).reason is Reason.TRUNCATED
    assert server.asked[f"/{path}"] == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_final_answers_are_not_asked_for_again(status: int, server: Server, tmp_path: Path) -> None:
    polite, url = opener(tmp_path), f"{server.url}/status/{status}"
    texts = {message(polite, url) for _ in range(4)}
    assert [classify_error(text).reason for text in texts] == [Reason.DEAD_LINK]
    assert server.asked[f"/status/{status}"] == 1
    assert get(polite, f"{server.url}/good/1"), "the next URL is asked for"


@pytest.mark.parametrize("path", ["status/500", "status/503", "status/429", "reset/1"])
def test_passing_failures_are_asked_for_again(
    path: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.fetch.polite.FIRST_PAUSE_S", 0.001)
    polite = opener(tmp_path)
    texts = [message(polite, f"{server.url}/{path}") for _ in range(4)]
    assert server.asked[f"/{path}"] == 4
    assert {classify_error(text).reason for text in texts} <= {Reason.SERVER_ERROR, Reason.UNREACHABLE}


def test_what_robots_may_not_use_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    polite, url = opener(tmp_path), f"{server.url}/robots/1"
    with polite.open(urllib.request.Request(url), None, 5.0) as answer:
        assert answer.headers.get_all("X-Robots-Tag") == ["noai"]
    text = message(polite, url)
    assert classify_error(text).reason is Reason.DEAD_LINK
    assert server.asked["/robots/1"] == 1


def test_a_redirect_to_the_placeholder_is_not_followed(server: Server, tmp_path: Path) -> None:
    polite, url = opener(tmp_path), f"{server.url}/to/good/photo_unavailable.png"
    text = message(polite, url)
    assert classify_error(text).reason is Reason.PLACEHOLDER
    assert message(polite, url) == text
    assert server.asked == {"/to/good/photo_unavailable.png": 1}
    assert polite._hosts._hosts == {}


def test_a_limited_number_of_requests_at_once_until_answers_are_closed(server: Server, tmp_path: Path) -> None:
    polite = opener(tmp_path, per_host=3)
    threads = [threading.Thread(target=get, args=(polite, f"{server.url}/held/{i}", 30.0)) for i in range(10)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while server.most_active < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # a fourth would come in this time
    assert server.most_active == 3
    server.open.set()
    for thread in threads:
        thread.join()
    assert server.most_active == 3
    assert len(server.asked) == 10


def test_a_redirect_takes_its_turn_at_the_other_host(server: Server, tmp_path: Path) -> None:
    polite, seen = opener(tmp_path, per_host=1), []
    with polite.open(urllib.request.Request(f"{server.url}/elsewhere/good/1"), None, 5.0) as answer:
        seen = list(polite._hosts._hosts)
        answer.read()
    assert seen == [f"localhost:{server.server_port}"]


def test_a_host_that_asks_for_a_long_pause_is_left_alone(server: Server, tmp_path: Path) -> None:
    polite = opener(tmp_path)
    assert classify_error(message(polite, f"{server.url}/busy/1")).detail == "HTTP 503"
    for i in range(3):
        text = message(polite, f"{server.url}/good/{i}")
        assert text == HOST_ASKS_FOR_PAUSE
        assert classify_error(text).reason is Reason.SERVER_ERROR
    assert server.asked == {"/busy/1": 1}


def test_a_dripping_body_is_cut(server: Server, tmp_path: Path) -> None:
    polite, url = opener(tmp_path, timeout_s=0.1), f"{server.url}/drip/1"
    text = message(polite, url)
    assert text == TOO_SLOW
    assert classify_error(text).reason is Reason.UNREACHABLE
    assert message(polite, url) == TOO_SLOW
    assert server.asked["/drip/1"] == 1


def test_an_endless_body_is_cut(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polite_opener, "MAX_BODY_BYTES", 99_999)
    text = message(opener(tmp_path), f"{server.url}/good/1")
    assert text == TOO_LONG
    assert classify_error(text).reason is Reason.BOMB


def test_after_the_deadline_nothing_is_sent(server: Server, tmp_path: Path) -> None:
    polite = opener(tmp_path, deadline_s=1e-6)
    text = message(polite, f"{server.url}/good/1")
    assert text == DEADLINE_OVER
    assert classify_error(text) == classify_error(DEADLINE_OVER)
    assert classify_error(text).reason is Reason.UNREACHABLE
    assert server.asked == {}


def test_only_the_web_is_asked(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    polite = opener(tmp_path)
    for url in (secret.as_uri(), "ftp://127.0.0.1/x", "data:text/plain,hello"):
        with pytest.raises((URLError, ValueError)):
            get(polite, url)


def test_urls_with_spaces_and_umlauts_are_quoted(server: Server, tmp_path: Path) -> None:
    assert get(opener(tmp_path), f"{server.url}/good/a b ä%20.jpg?c=ü") == b"x" * 100_000
    assert server.asked == {"/good/a%20b%20%C3%A4%20.jpg": 1}


def test_unknown_hosts_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look_up(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    polite = opener(tmp_path)
    texts = {message(polite, "http://nowhere.invalid/1.jpg") for _ in range(3)}
    assert len(asked) == 1
    assert {classify_error(text).detail for text in texts} == {"host not found"}


def test_http_errors_stay_what_they_are(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HTTPError) as caught:
        get(opener(tmp_path), f"{server.url}/status/404")
    assert caught.value.code == 404


def _text_of(row: str) -> tuple[bool, str]:
    with urllib.request.urlopen(row, timeout=5) as answer:
        return True, answer.read().decode()


def test_the_downloader_is_pickled_and_installs_the_opener(server: Server, tmp_path: Path) -> None:
    settings = PoliteSettings(per_host=1, timeout_s=5, deadline_s=60, heartbeat=str(tmp_path / "beat"))
    (tmp_path / "beat").touch()
    before = urllib.request._opener  # type: ignore[attr-defined]
    try:
        downloader = pickle.loads(pickle.dumps(PoliteDownloader(downloader=_text_of, settings=settings)))
        assert downloader(f"{server.url}/chunked/whole") == (True, "hello world")
        assert isinstance(urllib.request._opener, PoliteOpener)  # type: ignore[attr-defined]
    finally:
        urllib.request._opener = before  # type: ignore[attr-defined]


def test_refusals_are_what_img2dataset_catches() -> None:
    assert issubclass(RefusedError, Exception)
    assert str(RefusedError("text")) == "text"
