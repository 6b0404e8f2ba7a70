#!/usr/bin/env python3
"""A stand-in for Flickr and for the public bucket: serves real photographs at any image URL, with faults on request.

It answers plain requests (`GET /7205/6985418911_df7747990d.jpg`) and proxy requests
(`GET http://farm8.staticflickr.com/...`), so real metadata rows can be fetched unchanged:

    python tests/faults/flickr_stand_in.py --photos FOLDER --port 8099 --dead 0.05 --truncated 0.02 --flaky 0.05 &
    http_proxy=http://127.0.0.1:8099 python pipeline/build_yfcc15m.py --metadata rows_v2.tsv ...

What a URL gets is decided by a hash of its path and the seed, so it is the same in every run:
  dead         404 for ever
  placeholder  302 to /images/photo_unavailable.png (500x374), as Flickr answers for a removed photo
  truncated    Content-Length says more than what is sent, for ever
  flaky        503 on the first two requests for that path, then the photo
  reset        the connection is reset in mid-body on the first request, then the photo
  slow         the body takes --slow-s seconds
Every other URL gets a photograph of its own (--no-unique: one of the files as it is): the path is written into it as a
JPEG comment, so that no two are equal, but for the --duplicates share of the URLs, which all get the same one.
Paths below /data/images/ are the public bucket's: they have none of these faults; --bucket-dead of them answer 403,
as S3 does for objects that are not there. With --retry-after the 503 of a flaky URL says when to come back.
`GET /_stats` returns what was asked and answered, the most requests at once and when the first one came, as JSON;
`GET /_reset` does so too and begins anew. Needs Pillow for the placeholder only.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

FAULTS = ("dead", "placeholder", "truncated", "flaky", "reset", "slow")
BUCKET = "/data/images/"


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in other bytes: a comment segment behind the two bytes every JPEG begins with."""
    comment = text.encode()[:65_000]
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def placeholder_png() -> bytes:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (500, 374), (240, 240, 240))
    ImageDraw.Draw(image).text((150, 180), "This photo is no longer available", fill=(120, 120, 120))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class StandIn(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.photos = [
            p.read_bytes() for p in sorted(Path(args.photos).iterdir()) if p.suffix.lower() in {".jpg", ".jpeg"}
        ]
        if not self.photos:
            raise SystemExit(f"{args.photos}: no .jpg or .jpeg file below it")
        self.placeholder = placeholder_png()
        self.asked: collections.Counter[str] = collections.Counter()
        self.answered: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()
        self.active = self.most_active = 0
        self.first_unix = 0.0
        super().__init__((args.host, args.port), Handler)

    def fate(self, path: str) -> tuple[str, bytes]:
        digest = hashlib.sha256(f"{self.args.seed}/{path}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        if int.from_bytes(digest[16:24], "big") / 2**64 < self.args.duplicates:
            photo = self.photos[0]
        else:
            photo = self.photos[int.from_bytes(digest[8:16], "big") % len(self.photos)]
            if self.args.unique:
                photo = with_comment(photo, path)
        if path.startswith(BUCKET):
            return ("forbidden" if draw < self.args.bucket_dead else "ok"), photo
        for fault in FAULTS:
            rate = getattr(self.args, fault)
            if draw < rate:
                return fault, photo
            draw -= rate
        return "ok", photo


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandIn

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        with self.server.lock:
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
        try:
            self.answer_one(body)
        finally:
            with self.server.lock:
                self.server.active -= 1

    def answer_one(self, body: bool) -> None:
        path = urlsplit(self.path).path
        if path in {"/_stats", "/_reset"}:
            with self.server.lock:
                stats = {
                    "paths": len(self.server.asked),
                    "requests": sum(self.server.asked.values()),
                    "answers": dict(self.server.answered),
                    "most_at_once": self.server.most_active,
                    "first_unix": self.server.first_unix,
                }
                if path == "/_reset":
                    self.server.asked.clear()
                    self.server.answered.clear()
                    self.server.first_unix = 0.0
            return self.reply(200, json.dumps(stats).encode(), "application/json", body)
        if path.endswith("/photo_unavailable.png"):
            return self.reply(200, self.server.placeholder, "image/png", body)
        with self.server.lock:
            self.server.asked[path] += 1
            times = self.server.asked[path]
            self.server.first_unix = self.server.first_unix or time.time()
        fault, photo = self.server.fate(path)
        if (fault == "flaky" and times > 2) or (fault == "reset" and times > 1):
            fault = "ok"
        with self.server.lock:
            self.server.answered[fault] += 1
        if self.server.args.latency_s:
            time.sleep(self.server.args.latency_s)
        if fault == "forbidden":
            return self.reply(403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml", body)
        if fault == "dead":
            return self.reply(404, b"not found", "text/plain", body)
        if fault == "placeholder":
            self.send_response(302)
            self.send_header(
                "Location",
                "/images/photo_unavailable.png"
                if not self.path.startswith("http")
                else "http://s.yimg.com/pw/images/en-us/photo_unavailable.png",
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if fault == "flaky":
            later = self.server.args.retry_after
            return self.reply(
                503, b"slow down", "text/plain", body, {} if later is None else {"Retry-After": str(later)}
            )
        if fault in {"truncated", "reset"}:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(photo)))
            self.end_headers()
            self.wfile.write(photo[: len(photo) // 2])
            self.wfile.flush()
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        if fault == "slow":
            time.sleep(self.server.args.slow_s)
        return self.reply(200, photo, "image/jpeg", body)

    def reply(self, status: int, data: bytes, kind: str, body: bool, headers: dict[str, str] | None = None) -> None:
        lines = {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}
        head = f"HTTP/1.1 {status} {self.responses[status][0]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        # In one write: at thousands of answers in a second this server must not be what is measured.
        self.wfile.write(f"{head}\r\n".encode() + (data if body else b""))

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--seed", type=int, default=0)
    for fault in FAULTS:
        parser.add_argument(f"--{fault}", type=float, default=0.0, help="share of the URLs (0 to 1)")
    parser.add_argument("--slow-s", type=float, default=3.0)
    parser.add_argument("--latency-s", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--unique", action=argparse.BooleanOptionalAction, default=True, help="no two pictures equal")
    parser.add_argument(
        "--duplicates", type=float, default=0.0, help="share of the URLs that get one and the same picture"
    )
    parser.add_argument("--bucket-dead", type=float, default=0.0, help="share of the bucket's paths that answer 403")
    parser.add_argument("--retry-after", type=int, default=None, help="seconds, said with 503")
    server = StandIn(parser.parse_args())
    print(f"serving {len(server.photos)} photographs on http://{server.args.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
