from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis.strategies import binary, integers
from PIL import Image

from pipeline.errors import InputError
from pipeline.fetch import polite
from pipeline.fetch.sources import Picture, Rejected, classify_error, classify_picture, read_local
from pipeline.records import Reason

LIMITS: dict[str, Any] = {"min_side": 16, "max_pixels": 1_000_000, "max_aspect": 20.0}


def encoded(kind: str, size: tuple[int, int] = (64, 48), *, mode: str = "RGB", **options: object) -> bytes:
    noise = Image.effect_noise(size, 60).convert(mode)
    out = io.BytesIO()
    noise.save(out, kind, **options)
    return out.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header announces any size; there is next to no data behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    extended = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", len(extended)) + extended
    return b"RIFF" + struct.pack("<I", len(body)) + body


GOOD = {
    "baseline": (encoded("JPEG"), "jpg"),
    "progressive": (encoded("JPEG", progressive=True), "jpg"),
    "cmyk": (encoded("JPEG", mode="CMYK"), "jpg"),
    "grey": (encoded("JPEG", mode="L"), "jpg"),
    "png": (encoded("PNG"), "png"),
    "png with alpha": (encoded("PNG", mode="RGBA"), "png"),
    "png with palette": (encoded("PNG", mode="P"), "png"),
    "webp lossy": (encoded("WEBP"), "webp"),
    "webp lossless": (encoded("WEBP", lossless=True), "webp"),
    "webp with alpha": (encoded("WEBP", mode="RGBA"), "webp"),
    "jpeg with rubbish behind it": (encoded("JPEG") + b"\0" * 50, "jpg"),
}


@pytest.mark.parametrize("name", GOOD)
def test_whole_pictures_are_kept_with_their_size(name: str) -> None:
    data, kind = GOOD[name]
    assert classify_picture(data, **LIMITS) == Picture(format=kind, width=64, height=48)


BAD = {
    "html": (b"<!DOCTYPE html><html><body>gone</body></html>", Reason.NOT_AN_IMAGE, "HTML page"),
    "html after spaces": (b"\n\n  <HTML>", Reason.NOT_AN_IMAGE, "HTML page"),
    "nothing": (b"", Reason.NOT_AN_IMAGE, "empty answer"),
    "text": (b"not found", Reason.NOT_AN_IMAGE, "unknown format"),
    "tiff": (encoded("TIFF"), Reason.NOT_AN_IMAGE, "unknown format"),
    "gif": (encoded("GIF"), Reason.NOT_AN_IMAGE, "gif"),
    "gif placeholder": (encoded("GIF", (500, 374)), Reason.PLACEHOLDER, "gif"),
    "png placeholder": (encoded("PNG", (500, 374)), Reason.PLACEHOLDER, "png"),
    "placeholder by its length": (encoded("GIF").ljust(9218, b"\0"), Reason.PLACEHOLDER, "9218"),
    "one pixel": (encoded("JPEG", (1, 1)), Reason.TOO_SMALL, "1 x 1"),
    "one pixel gif": (encoded("GIF", (1, 1)), Reason.NOT_AN_IMAGE, "gif"),
    "narrow": (encoded("PNG", (500, 15)), Reason.TOO_SMALL, "500 x 15"),
    "long": (encoded("PNG", (500, 20)), Reason.WRONG_ASPECT, "500 x 20"),
    "high": (encoded("JPEG", (20, 500)), Reason.WRONG_ASPECT, "20 x 500"),
    "png bomb": (png_claiming(30_000, 30_000), Reason.BOMB, "30000 x 30000"),
    "png bomb above Pillow's limit": (png_claiming(2**31 - 1, 2**31 - 1), Reason.BOMB, "2147483647"),
    "jpeg bomb": (jpeg_claiming(60_000, 60_000), Reason.BOMB, "60000 x 60000"),
    "webp bomb": (webp_claiming(16_000, 16_000), Reason.BOMB, "16000 x 16000"),
    "just over the limit": (jpeg_claiming(1001, 1000), Reason.BOMB, "1001 x 1000"),
    "jpeg with half its data": (encoded("JPEG")[:1500], Reason.TRUNCATED, "jpg"),
    "jpeg magic only": (b"\xff\xd8\xff\xe0", Reason.TRUNCATED, "jpg header"),
    "png magic only": (b"\x89PNG\r\n\x1a\n", Reason.TRUNCATED, "png header"),
    "webp magic only": (b"RIFF\0\0\0\0WEBP", Reason.TRUNCATED, "webp header"),
    "png with too little data": (png_claiming(500, 500), Reason.TRUNCATED, "png"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_fault_has_its_reason(name: str) -> None:
    data, reason, detail = BAD[name]
    verdict = classify_picture(data, **LIMITS)
    assert isinstance(verdict, Rejected)
    assert (verdict.reason, detail in verdict.detail) == (reason, True), verdict
    assert verdict == classify_picture(data, **LIMITS)


@pytest.mark.parametrize("name", ["baseline", "progressive", "cmyk", "png", "webp lossy", "webp lossless"])
@given(share=integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_picture_cut_anywhere_is_never_kept(name: str, share: int) -> None:
    data = GOOD[name][0]
    # A PNG is whole before its 12-byte end chunk; nothing of the picture is lost with that.
    needed = len(data) - (12 if name == "png" else 0)
    cut = data[: needed * share // 1000]
    verdict = classify_picture(cut, **LIMITS)
    assert isinstance(verdict, Rejected)
    assert verdict.reason in {Reason.TRUNCATED, Reason.NOT_AN_IMAGE}


@pytest.mark.parametrize("num_bytes", [1, 2])
@pytest.mark.parametrize("name", ["baseline", "progressive"])
def test_a_jpeg_without_its_end_marker_is_truncated(name: str, num_bytes: int) -> None:
    verdict = classify_picture(GOOD[name][0][:-num_bytes], **LIMITS)
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.TRUNCATED


@given(data=binary(max_size=300), start=integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_rubbish_never_raises(data: bytes, start: int) -> None:
    magic = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBP"][start]
    assert isinstance(classify_picture(magic + data, **LIMITS), Rejected)


def test_local_pictures_may_look_like_the_placeholder() -> None:
    data = encoded("PNG", (500, 374))
    assert isinstance(classify_picture(data, **LIMITS, from_flickr=False), Picture)
    verdict = classify_picture(encoded("GIF", (500, 374)), **LIMITS, from_flickr=False)
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("HTTP Error 404: Not Found", Reason.DEAD_LINK),
        ("HTTP Error 410: Gone", Reason.DEAD_LINK),
        ("HTTP Error 403: Forbidden", Reason.DEAD_LINK),
        ("HTTP Error 401: Unauthorized", Reason.DEAD_LINK),
        ("HTTP Error 429: Too Many Requests", Reason.SERVER_ERROR),
        ("HTTP Error 408: Request Timeout", Reason.SERVER_ERROR),
        ("HTTP Error 500: Internal Server Error", Reason.SERVER_ERROR),
        ("HTTP Error 503: Service Unavailable", Reason.SERVER_ERROR),
        ("timed out", Reason.UNREACHABLE),
        ("The read operation timed out", Reason.UNREACHABLE),
        ("<urlopen error timed out>", Reason.UNREACHABLE),
        ("<urlopen error [Errno 111] Connection refused>", Reason.UNREACHABLE),
        ("[Errno 104] Connection reset by peer", Reason.UNREACHABLE),
        ("Remote end closed connection without response", Reason.UNREACHABLE),
        ("<urlopen error [Errno -2] Name or service not known>", Reason.UNREACHABLE),
        ("unknown url type: 'nonsense'", Reason.UNREACHABLE),
        ("", Reason.UNREACHABLE),
        ("IncompleteRead(100 bytes read, 900 more expected)", Reason.TRUNCATED),
        ("IncompleteRead(100 bytes read)", Reason.TRUNCATED),
        ("Use of image disallowed by X-Robots-Tag directive", Reason.DEAD_LINK),
        ("redirected to photo_unavailable.png", Reason.PLACEHOLDER),
        (polite.DEADLINE_OVER, Reason.UNREACHABLE),
        (polite.TOO_SLOW, Reason.UNREACHABLE),
        (polite.HOST_ASKS_FOR_PAUSE, Reason.SERVER_ERROR),
        (polite.TOO_LONG, Reason.BOMB),
    ],
)
def test_download_errors_have_their_reason(message: str, reason: Reason) -> None:
    assert classify_error(message).reason is reason


def test_details_of_broken_connections_do_not_depend_on_timing() -> None:
    early = classify_error("IncompleteRead(100 bytes read, 900 more expected)")
    late = classify_error("IncompleteRead(900 bytes read, 100 more expected)")
    assert early == late
    assert "1000 bytes" in early.detail


@pytest.mark.parametrize(
    "messages",
    [
        (
            "timed out",
            "The read operation timed out",
            "<urlopen error timed out>",
            "<urlopen error _ssl.c:990: timed out>",
        ),
        (
            "[Errno 104] Connection reset by peer",
            "<urlopen error [Errno 104] Connection reset by peer>",
            "Remote end closed connection without response",
            "[Errno 32] Broken pipe",
            "<urlopen error EOF occurred in violation of protocol (_ssl.c:1007)>",
        ),
        (
            "<urlopen error [Errno -2] Name or service not known>",
            "<urlopen error [Errno -5] No address associated with hostname>",
        ),
        (
            "<urlopen error certificate has expired (_ssl.c:1007)>",
            "<urlopen error certificate has expired (_ssl.c:997)>",
        ),
    ],
)
def test_one_cause_has_one_detail_whenever_it_strikes(messages: tuple[str, ...]) -> None:
    assert len({classify_error(message) for message in messages}) == 1


@pytest.mark.parametrize("as_struct", [False, True])
def test_rows_of_a_table_are_read_in_any_order(tmp_path: Path, as_struct: bool) -> None:
    pictures = [None if i % 7 == 3 else f"picture {i}".encode() for i in range(500)]
    column = pa.array([p if p is None else {"bytes": p, "path": ""} for p in pictures]) if as_struct else pictures
    path = tmp_path / "a table.parquet"
    pq.write_table(pa.table({"label": list(range(500)), "image": column}), path, row_group_size=90)
    url = f"parquet://{path.as_uri().removeprefix('file://')}"
    rows = [0, 1, 2, 3, 89, 90, 91, 300, 499, 500, 700, 10, 17, 11, 499]
    expected = [pictures[row] if row < 500 else None for row in rows]
    found = [None if isinstance(a, Rejected) else a for a in read_local([f"{url}#{row}" for row in rows])]
    assert found == expected
    faults = [a for a in read_local([f"{url}#{row}" for row in rows]) if isinstance(a, Rejected)]
    assert {fault.reason for fault in faults} == {Reason.MISSING_FILE}


def test_files_and_tables_may_alternate(tmp_path: Path) -> None:
    picture = tmp_path / "ä b#c.jpg"
    picture.write_bytes(b"from a file")
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"zero", b"one"]}), table)
    urls = [picture.as_uri(), f"parquet://{table}#1", (tmp_path / "missing.jpg").as_uri(), tmp_path.as_uri()]
    first, second, *rest = read_local(urls)
    assert (first, second) == (b"from a file", b"one")
    assert [r.reason for r in rest if isinstance(r, Rejected)] == [Reason.MISSING_FILE] * 2


def test_a_lost_table_is_an_error_not_a_rejection(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table"):
        list(read_local([f"parquet://{tmp_path}/gone.parquet#0"]))
