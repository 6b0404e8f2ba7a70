"""What a picture's bytes, or the message of a failed download, are worth: a `Picture` or a `Rejected`.

In come bytes and messages, out come values; the only files read here are those of `--dataset local`.
Downloading, tars and tables are left to `fetch`, making pictures smaller to `resize`.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pipeline.errors import InputError
from pipeline.fetch.polite import DEADLINE_OVER, HOST_ASKS_FOR_PAUSE, PLACEHOLDER_REDIRECT, TOO_LONG, TOO_SLOW
from pipeline.records import Reason

PLACEHOLDER_SIZE = (500, 374)
"""Flickr answers for a removed photograph with a GIF or PNG of this size; YFCC100M's photographs are JPEGs."""
PLACEHOLDER_BYTES = 9218
"""Length of the GIF form."""

DAMAGE = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError, struct.error)
"""Whatever Pillow raises on damaged input; it lets errors of its parsers through."""

_READ_BATCH_ROWS = 64
_HTML = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_HTTP_STATUS = re.compile(r"HTTP Error (\d{3})")
_INCOMPLETE = re.compile(r"IncompleteRead\((\d+) bytes read(?:, (\d+) more expected)?\)")
_SOURCE_LINE = re.compile(r" \(_ssl\.c:\d+\)")
_OWN_MESSAGES = {
    DEADLINE_OVER: Reason.UNREACHABLE,
    TOO_SLOW: Reason.UNREACHABLE,
    HOST_ASKS_FOR_PAUSE: Reason.SERVER_ERROR,
    TOO_LONG: Reason.BOMB,
}
# One text for what is worded differently depending on the moment at which it happens, and on the system.
_CAUSES = (
    (re.compile(r"timed out", re.IGNORECASE), "timed out"),
    (re.compile(r"reset by peer|broken pipe|closed connection|EOF occurred", re.IGNORECASE), "connection broken"),
    (re.compile(r"connection refused", re.IGNORECASE), "connection refused"),
    (re.compile(r"not known|name resolution|No address associated|getaddrinfo failed"), "host not found"),
    (re.compile(r"No route to host|Network is unreachable"), "no route to the host"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that is whole and within the limits."""

    format: str
    """"jpg", "png" or "webp"."""
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Why there is no picture."""

    reason: Reason
    detail: str
    """What exactly was found; the same for the same input, so no addresses and no times."""
    width: int = 0
    height: int = 0


def bucket_url(bucket: str, key: str) -> str:
    """Where the public bucket has the picture of this key: ("B", "d29e7c...") -> "B/d29/e7c/d29e7c....jpg".

    The layout is Multimedia Commons', `data/images/` of its bucket. "" when the key is unknown.
    """
    return f"{bucket.rstrip('/')}/{key[:3]}/{key[3:6]}/{key}.jpg" if key else ""


def classify_error(message: str) -> Rejected:
    """Turn img2dataset's text for a failed download into a reason.

    "HTTP Error 404: Not Found" -> DEAD_LINK, "HTTP Error 503: ..." -> SERVER_ERROR, "timed out" -> UNREACHABLE,
    "IncompleteRead(10 bytes read, 90 more expected)" -> TRUNCATED.
    """
    text = " ".join(message.split())
    if match := _HTTP_STATUS.search(text):
        status = int(match[1])
        # 408, 425 and 429 mean "later", like 5xx; every other answer without a picture is final.
        later = status >= 500 or status in {408, 425, 429}
        return Rejected(reason=Reason.SERVER_ERROR if later else Reason.DEAD_LINK, detail=f"HTTP {status}")
    if match := _INCOMPLETE.search(text):
        # How much came before the connection ended varies from run to run; what was announced does not.
        announced = f" of {int(match[1]) + int(match[2])} bytes" if match[2] else ""
        return Rejected(reason=Reason.TRUNCATED, detail=f"connection ended before the end{announced}")
    if "X-Robots-Tag" in text:
        return Rejected(reason=Reason.DEAD_LINK, detail="the server's X-Robots-Tag disallows use")
    if text.startswith(PLACEHOLDER_REDIRECT):
        return Rejected(reason=Reason.PLACEHOLDER, detail=text)
    for own, reason in _OWN_MESSAGES.items():
        if text == own:
            return Rejected(reason=reason, detail=own)
    for pattern, detail in _CAUSES:
        if pattern.search(text):
            return Rejected(reason=Reason.UNREACHABLE, detail=detail)
    return Rejected(reason=Reason.UNREACHABLE, detail=_SOURCE_LINE.sub("", text)[:200] or "no answer")


def classify_picture(
    data: bytes, *, min_side: int, max_pixels: int, max_aspect: float = math.inf, from_flickr: bool = True
) -> Picture | Rejected:
    """Check a picture from its first bytes to its last; the size in its header is judged before anything is decoded.

    `from_flickr` looks for Flickr's placeholder too, which in pictures of one's own is a picture like others.
    """
    kind = _format(data)
    if from_flickr and kind != "jpg":
        size = _gif_size(data) if kind == "gif" else None
        if size == PLACEHOLDER_SIZE or (kind in {"gif", "png"} and len(data) == PLACEHOLDER_BYTES):
            return Rejected(reason=Reason.PLACEHOLDER, detail=f"{kind}, {len(data)} bytes")
    if kind not in {"jpg", "png", "webp"}:
        return Rejected(reason=Reason.NOT_AN_IMAGE, detail=kind)
    try:
        width, height, image = open_picture(data, kind, max_pixels)
    except DAMAGE as error:
        return Rejected(reason=Reason.TRUNCATED, detail=f"{kind} header: {_text(error)}")
    if from_flickr and kind == "png" and (width, height) == PLACEHOLDER_SIZE:
        return Rejected(reason=Reason.PLACEHOLDER, detail=f"png, {len(data)} bytes", width=width, height=height)
    found = f"{width} x {height} pixels"
    for reason, is_wrong in (
        (Reason.TOO_SMALL, min(width, height) < min_side),
        (Reason.WRONG_ASPECT, max(width, height) > max_aspect * min(width, height)),
        (Reason.BOMB, width * height > max_pixels),
    ):
        if is_wrong:
            return Rejected(reason=reason, detail=found, width=width, height=height)
    assert image is not None
    try:
        # Decoded in grey at an eighth of the size: all of the data is read, but less of it computed with
        # (1.3 instead of 2.1 ms for an ImageNet photograph), and a missing end is noticed all the same.
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft("L", (1, 1))
        image.load()
    except DAMAGE as error:
        return Rejected(reason=Reason.TRUNCATED, detail=f"{kind}: {_text(error)}", width=width, height=height)
    return Picture(format=kind, width=width, height=height)


def read_local(urls: Sequence[str]) -> Iterator[bytes | Rejected]:
    """The pictures behind `file:///path` and `parquet:///table#row` URLs, one answer per URL, in order.

    Rows of one table that ascend are read in one pass over the row groups they lie in.
    """
    for table, group in groupby(urls, key=lambda url: url.rpartition("#")[0] if url.startswith("parquet:") else ""):
        if table:
            yield from _read_table(Path(_path(table)), [int(url.rpartition("#")[2]) for url in group])
        else:
            yield from map(_read_file, group)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _format(data: bytes) -> str:
    """Format by the first bytes, or what the data looks like instead."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return "gif"
    if not data:
        return "empty answer"
    if _HTML.match(data[:1024]):
        return "HTML page"
    return f"unknown format, starts with {data[:8].hex(' ')}"


def _gif_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 10:
        return None
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    """Size from a WebP's first chunk; Pillow would reserve memory for the whole picture to tell it."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no VP8 chunk")


def open_picture(data: bytes, kind: str, max_pixels: int) -> tuple[int, int, ImageFile.ImageFile | None]:
    """Width, height and the undecoded picture (None where opening alone would cost memory for its pixels).

    Pillow's readers are called directly: `Image.open` has a limit of its own and guesses the format.
    """
    if kind == "webp":
        width, height = _webp_size(data)
        if width * height > max_pixels:
            return width, height, None
    reader: Any = {
        "jpg": JpegImagePlugin.JpegImageFile,
        "png": PngImagePlugin.PngImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
    }[kind]
    image: ImageFile.ImageFile = reader(io.BytesIO(data))
    return image.width, image.height, image


def _path(url: str) -> str:
    return url2pathname(urlsplit(url).path)


def _read_file(url: str) -> bytes | Rejected:
    path = _path(url)
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Rejected(reason=Reason.MISSING_FILE, detail="no such file")
    except OSError as error:
        return Rejected(reason=Reason.MISSING_FILE, detail=error.strerror or type(error).__name__)


def _read_table(path: Path, rows: Sequence[int]) -> Iterator[bytes | Rejected]:
    """The pictures in these rows of a Parquet table; missing ones are rejected."""
    try:
        table = pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such table any more; the selection was made from it") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
    if "image" not in table.schema_arrow.names:
        raise InputError(f"{path}: no column `image` (columns: {', '.join(table.schema_arrow.names)})")
    with table:
        batches = _image_batches(table, min(rows, default=0))
        first, column = 0, pa.array([], pa.binary())
        for row in rows:
            if row < first:  # not ascending: start again; right, only slower
                batches = _image_batches(table, row)
                first, column = 0, pa.array([], pa.binary())
            while row >= first + len(column):
                first, column = next(batches, (row, None))
                if column is None:
                    column = pa.array([None], pa.binary())
            value = column[row - first].as_py()
            missing = Rejected(reason=Reason.MISSING_FILE, detail="no picture in this row of the table")
            yield missing if value is None else value


def _image_batches(table: pq.ParquetFile, start: int) -> Iterator[tuple[int, pa.Array]]:
    """Column `image` as binary, batch by batch from the row group of row `start`, with each batch's first row."""
    first = 0
    for group in range(table.metadata.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        if first + num_rows <= start:
            first += num_rows
            continue
        for batch in table.iter_batches(batch_size=_READ_BATCH_ROWS, row_groups=[group], columns=["image"]):
            column = batch.column(0)
            if pa.types.is_struct(column.type):  # as Hugging Face stores pictures: {bytes, path}
                column = column.field("bytes")
            yield first, column
            first += len(column)
