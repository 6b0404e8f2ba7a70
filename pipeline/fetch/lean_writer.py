"""What img2dataset's processes write with: a tar of good pictures, and a table of every answer's verdict and place.

It takes the place of img2dataset's own WebDataset writer, which puts a JSON file beside every picture and knows no
offsets. Pictures are judged here, as they come in: these processes wait for servers most of the time, and so the
last unit of a call needs no checking when all others are done. Whether what is written is whole,
`img2dataset_output` finds out; a write that failed shows there as a missing row or a wrong digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.fetch.judging import Kept, PictureLimits, judge
from pipeline.fetch.sources import Rejected, classify_error
from pipeline.seal.shard import BLOCK_BYTES, header

SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("index", pa.int64()),
        ("url", pa.string()),
        ("status", pa.string()),  # img2dataset's: "success" when something came
        ("reason", pa.string()),  # "" when it is a good picture
        ("detail", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("offset", pa.int64()),  # in the tar; -1 without a picture
        ("size", pa.int64()),
    ]
)
"""One row of the table, in the order in which answers came."""


class LeanWriter:
    """Writes one shard; used as img2dataset uses its `SampleWriter` classes (`limits` bound beforehand)."""

    def __init__(
        self,
        shard_id: int,
        output_folder: str,
        save_caption: bool,
        oom_shard_count: int,
        schema: pa.Schema,
        encode_format: str,
        *,
        limits: PictureLimits,
    ) -> None:
        stem = Path(output_folder) / f"{shard_id:0{oom_shard_count}d}"
        self._table = stem.with_suffix(".parquet")
        self._tar = stem.with_suffix(".tar").open("wb")
        self._limits = limits
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def write(self, img_str: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        """Add one answer: what came, or the reason in `meta` why nothing did."""
        answer = classify_error(meta["error_message"] or "") if img_str is None else judge(img_str, self._limits)
        row = {name: meta[name] for name in ("unit", "index", "url", "status")}
        row |= self._rejected(answer) if isinstance(answer, Rejected) else self._kept(key, answer)
        for name, value in row.items():
            self._columns[name].append(value)

    def _rejected(self, answer: Rejected) -> dict[str, Any]:
        found = {"reason": str(answer.reason), "detail": answer.detail, "width": answer.width, "height": answer.height}
        return found | {"format": "", "sha256": "", "offset": -1, "size": 0}

    def _kept(self, key: str, answer: Kept) -> dict[str, Any]:
        picture, data = answer.picture, answer.data
        self._tar.write(header(f"{key}.jpg", len(data)))  # every one: the progress display counts such names
        offset = self._tar.tell()
        self._tar.write(data)
        self._tar.write(bytes(-len(data) % BLOCK_BYTES))
        found = {"format": picture.format, "width": picture.width, "height": picture.height}
        return found | {"reason": "", "detail": "", "sha256": answer.sha256, "offset": offset, "size": len(data)}

    def close(self) -> None:
        """Finish both files."""
        with self._tar:
            self._tar.write(bytes(2 * BLOCK_BYTES))
        pq.write_table(pa.table(self._columns, schema=SCHEMA), self._table)
