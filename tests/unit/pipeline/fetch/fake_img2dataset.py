"""Leaves what img2dataset would leave for a folder of inputs, or a tar cut between two members."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from pipeline.fetch.judging import PictureLimits
from pipeline.fetch.lean_writer import LeanWriter

LIMITS = PictureLimits(min_side=16, max_pixels=10**6, max_aspect=20.0, resize=None, from_flickr=True)


def leave(folder: Path, unit: int, urls: list[str], shard: str = "00000", *, spoil: bool = False) -> None:
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "JPEG")
    data = out.getvalue()
    writer = LeanWriter(int(shard), str(folder), False, len(shard), None, "jpg", limits=LIMITS)
    for index in reversed(range(len(urls))):  # answers come in any order
        meta = {"unit": unit, "index": index, "url": urls[index], "status": "success", "error_message": None}
        writer.write(data, f"{shard}{index:04d}", None, meta)
    writer.close()
    if spoil:
        path = folder / f"{shard}.tar"
        path.write_bytes(path.read_bytes()[: 512 * 2 * 4])
    stats = {"count": len(urls), "successes": len(urls), "failed_to_download": 0}
    (folder / f"{shard}_stats.json").write_text(json.dumps(stats))


if __name__ == "__main__":
    arguments = json.loads(Path(sys.argv[1]).read_bytes())["img2dataset"]
    for number, path in enumerate(sorted(Path(arguments["url_list"]).iterdir())):
        table = pq.read_table(path)
        unit = table["unit"][0].as_py()
        output = Path(arguments["output_folder"])
        leave(output, unit, table["url"].to_pylist(), f"{number:05d}", spoil=sys.argv[2] == "1" and unit != 1)
