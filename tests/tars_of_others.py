"""Little WebDataset tars as other programs write them, for the tests of `slip index`."""

from __future__ import annotations

import io
import tarfile

from PIL import Image

Members = list[tuple[str, bytes]]


def picture(kind: str = "JPEG", size: tuple[int, int] = (9, 7)) -> bytes:
    """An encoded picture of one colour."""
    sink = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(sink, kind)
    return sink.getvalue()


JPG = picture()
GOOD = {"jpg": JPG, "txt": b"a boat", "json": b'{"title": "no"}'}
"""A sample as img2dataset writes it, by extension."""


def members(key: str, content: dict[str, bytes]) -> Members:
    """The members of one sample."""
    return [(f"{key}.{ext}", data) for ext, data in content.items()]


def tar_of(entries: Members, tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar; names that end in a slash are folders."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()
