"""Leaves what img2dataset would leave for a folder of inputs, or a tar cut between two members."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def leave(folder: Path, unit: int, urls: list[str], shard: str = "00000", *, spoil: bool = False) -> None:
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "JPEG")
    data = out.getvalue()
    keys = [f"{shard}{i:04d}" for i in range(len(urls))]
    with tarfile.open(folder / f"{shard}.tar", "w") as tar:
        for key in keys:
            for extension, content in (("jpg", data), ("json", b"{}")):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    if spoil:
        path = folder / f"{shard}.tar"
        path.write_bytes(path.read_bytes()[: 512 * 2 * 4])
    columns = {
        "unit": [unit] * len(urls),
        "position": list(range(len(urls))),
        "url": urls,
        "key": keys,
        "status": ["success"] * len(urls),
        "error_message": pa.nulls(len(urls), pa.string()),
        "sha256": [hashlib.sha256(data).hexdigest()] * len(urls),
    }
    # Written in the order of arrival, which is any.
    pq.write_table(
        pa.table(columns).sort_by([("sha256", "ascending"), ("position", "descending")]), folder / f"{shard}.parquet"
    )
    stats = {"count": len(urls), "successes": len(urls), "failed_to_download": 0}
    (folder / f"{shard}_stats.json").write_text(json.dumps(stats))


if __name__ == "__main__":
    arguments = json.loads(Path(sys.argv[1]).read_bytes())
    for number, path in enumerate(sorted(Path(arguments["url_list"]).iterdir())):
        table = pq.read_table(path)
        unit = table["unit"][0].as_py()
        output = Path(arguments["output_folder"])
        leave(output, unit, table["url"].to_pylist(), f"{number:05d}", spoil=sys.argv[2] == "1" and unit != 1)
