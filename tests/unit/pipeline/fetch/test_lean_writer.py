from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from pipeline.fetch.judging import PictureLimits
from pipeline.fetch.lean_writer import SCHEMA, LeanWriter

LIMITS = PictureLimits(min_side=16, max_pixels=10**6, max_aspect=20.0, resize=None, from_flickr=True)


def meta(index: int, error: str | None = None) -> dict[str, object]:
    status = "success" if error is None else "failed_to_download"
    common = {"unit": 4, "index": index, "url": f"http://flickr.test/{index}.jpg", "status": status}
    return common | {"error_message": error, "width": None, "exif": None}


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def test_answers_are_judged_and_lie_where_the_table_says(tmp_path: Path) -> None:
    writer = LeanWriter(12, str(tmp_path), False, 5, None, "jpg", limits=LIMITS)
    writer.write(picture(3), "000120003", None, meta(3))
    writer.write(None, "000120001", None, meta(1, "HTTP Error 404: Not Found"))
    writer.write(picture(0), "000120000", None, meta(0))
    writer.write(b"<html>gone</html>", "000120002", None, meta(2))
    writer.close()
    table = pq.read_table(tmp_path / "00012.parquet")
    assert table.schema.equals(SCHEMA)
    rows, data = table.to_pylist(), (tmp_path / "00012.tar").read_bytes()
    assert [(row["index"], row["status"], row["reason"]) for row in rows] == [
        (3, "success", ""),
        (1, "failed_to_download", "dead_link"),
        (0, "success", ""),
        (2, "success", "not_an_image"),
    ]
    for row in (rows[0], rows[2]):
        found = data[row["offset"] : row["offset"] + row["size"]]
        assert found == picture(row["index"])
        assert row["sha256"] == hashlib.sha256(found).hexdigest()
        assert (row["format"], row["width"], row["height"]) == ("jpg", 32, 24)
    with tarfile.open(tmp_path / "00012.tar") as tar:
        assert tar.getnames() == ["000120003.jpg", "000120000.jpg"]
