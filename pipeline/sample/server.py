"""The small Flickr's web server: hands out the embedded sample's pictures on this machine, with Flickr's faults.

It answers a proxy's requests (`GET http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg`), so that the
build fetches unchanged download URLs through it, and plain ones (`GET /7205/6985418911_df7747990d.jpg`). What
becomes of a photograph stands in `fates.json` beside the pictures: a dead one is a 404, a removed one a redirect
to Flickr's placeholder, a truncated one ends before its announced length. Nothing leaves this machine. It is a
fixture and a demonstration: it serves drawings, not YFCC100M's photographs.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import re
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageDraw, PngImagePlugin

from pipeline.errors import InputError
from pipeline.sample.pictures import PLACEHOLDER_SIZE

FATES_NAME = "fates.json"
PLACEHOLDER_PATH = "/pw/images/en-us/photo_unavailable.png"

_PLACEHOLDER_BYTES = 9218  # the size of Flickr's own file
_PHOTO_PATH = re.compile(r"/\d+/(\d+_[0-9a-f]+\.jpg)")
_log = logging.getLogger(__name__)


@functools.cache
def placeholder_png() -> bytes:
    """A picture with the width, height and number of bytes of Flickr's placeholder for removed photographs."""
    image = Image.new("RGB", PLACEHOLDER_SIZE, (240, 240, 240))
    ImageDraw.Draw(image).text((150, 180), "This photo is no longer available", fill=(120, 120, 120))

    def encode(comment: str) -> bytes:
        out, info = io.BytesIO(), PngImagePlugin.PngInfo()
        info.add_text("Comment", comment)
        image.save(out, "PNG", pnginfo=info)
        return out.getvalue()

    return encode("-" * max(0, _PLACEHOLDER_BYTES - len(encode(""))))


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection; every answer goes out in a single write, which matters for thousands of small files."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the build reports what it fetched."""

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        if url.path == PLACEHOLDER_PATH:
            self._send("200 OK", "image/png", placeholder_png(), with_body=with_body)
            return
        match = _PHOTO_PATH.fullmatch(url.path)
        name = match[1] if match else ""
        fate = self.server.fates.get(name, "")
        if fate == "placeholder":
            # A plain request stays on this server; a proxy's client will ask for Flickr's host through it.
            host = "http://s.yimg.com" if url.netloc else ""
            self._send("302 Found", "text/plain", b"", with_body=with_body, location=host + PLACEHOLDER_PATH)
            return
        photo = self._read(name) if name and fate != "dead" else None
        if photo is None:
            self._send("404 Not Found", "text/plain", b"not found\n", with_body=with_body)
        elif fate == "truncated":
            self.close_connection = True
            self._send("200 OK", "image/jpeg", photo[: len(photo) // 2], with_body=with_body, announced=len(photo))
        else:
            self._send("200 OK", "image/jpeg", photo, with_body=with_body)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.server.photos / name).read_bytes()
        except FileNotFoundError:
            return None

    def _send(
        self, status: str, kind: str, body: bytes, *, with_body: bool, location: str = "", announced: int | None = None
    ) -> None:
        length = len(body) if announced is None else announced
        head = f"HTTP/1.1 {status}\r\nServer: embedded-sample\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
        if location:
            head += f"Location: {location}\r\n"
        if self.close_connection:
            head += "Connection: close\r\n"
        self.wfile.write(f"{head}\r\n".encode("ascii") + (body if with_body else b""))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, photos: Path) -> None:
        self.photos = photos
        try:
            self.fates: dict[str, str] = json.loads((photos / FATES_NAME).read_bytes())
        except FileNotFoundError as error:
            raise InputError(
                f"{photos}: no {FATES_NAME} in it, so this is not the sample's folder of pictures; "
                "make it with pipeline.sample.sample.make_sample"
            ) from error
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can take seconds on a machine that is offline."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; anything else is a bug and is logged with its traceback."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            _log.exception("answering %s failed", client_address)


class SampleFlickr:
    """The server as a context manager; `proxy_url` is what to set as `http_proxy` while it runs.

    with SampleFlickr(paths.photos) as flickr:
        opener = build_opener(ProxyHandler({"http": flickr.proxy_url}))
    """

    def __init__(self, photos_folder: Path) -> None:
        self._photos = Path(photos_folder)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def proxy_url(self) -> str:
        """Where the server listens, for example "http://127.0.0.1:40123"."""
        if self._server is None:
            raise RuntimeError("SampleFlickr is not running: use it in a with statement")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SampleFlickr:
        self._server = _Server(self._photos)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="sample-flickr", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None
