"""What img2dataset left of one shard, read with distrust: every row accounted for, every picture whole.

In come tar and table (`lean_writer`) and img2dataset's statistics, out come the answers in the order of the rows, or
`ShardError` when the files contradict each other. img2dataset returns normally after a full disk, and what it wrote
then must not be believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardError
from pipeline.fetch.judging import Answer, Kept
from pipeline.fetch.sources import Picture, Rejected
from pipeline.records import Reason


class Leftover:
    """One shard img2dataset has finished: `folder/shard.tar`, `.parquet` and `_stats.json`."""

    def __init__(self, folder: Path, shard: str) -> None:
        self._tar, self._table = folder / f"{shard}.tar", folder / f"{shard}.parquet"
        try:
            rows = pq.read_table(self._table)
            self._stats: dict[str, Any] = json.loads((folder / f"{shard}_stats.json").read_bytes())
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise ShardError(f"{self._table}: cannot be read: {error}") from None
        units = rows["unit"].unique().to_pylist()
        if len(units) != 1:
            raise ShardError(f"{self._table}: rows of units {units}, expected one unit")
        self.unit = int(units[0])
        # In the order of arrival until here, which is any.
        self._rows = rows.sort_by("index")

    @property
    def started_unix(self) -> float:
        """When img2dataset began with the shard."""
        return float(self._stats.get("start_time", 0.0))

    def answers(self, questions: pa.Table) -> Iterator[tuple[int, Answer]]:
        """What came for each question (columns `index`, `url`), with its index."""
        self._check_rows(questions)
        try:
            with self._tar.open("rb") as file:
                for row in self._rows.to_pylist():
                    size = {"width": row["width"], "height": row["height"]}
                    if row["reason"]:
                        yield row["index"], Rejected(reason=Reason(row["reason"]), detail=row["detail"], **size)
                        continue
                    file.seek(row["offset"])
                    data = file.read(row["size"])
                    if hashlib.sha256(data).hexdigest() != row["sha256"]:  # noted before it was written
                        raise ShardError(f"{self._tar}: picture {row['index']} is not what was downloaded, or cut")
                    picture = Picture(format=row["format"], **size)
                    yield row["index"], Kept(data=data, sha256=row["sha256"], picture=picture)
        except OSError as error:
            raise ShardError(f"{self._tar}: cannot be read: {error}") from None

    def remove(self) -> None:
        """Make room: what was worth keeping has been copied."""
        self._tar.unlink()
        self._table.unlink()

    def _check_rows(self, questions: pa.Table) -> None:
        """Every row asked for is there once, with its URL, and counts agree with img2dataset's own."""
        rows, num_rows = self._rows, questions.num_rows
        for name, what in (
            ("index", "rows that are not the ones asked for"),
            ("url", "URLs that differ from those asked for"),
        ):
            if rows[name].to_pylist() != questions[name].to_pylist():
                raise ShardError(f"{self._table}: {rows.num_rows} rows for {num_rows} questions, {what}")
        status = rows["status"].to_pylist()
        num_pictures = status.count("success")
        found = (num_rows, num_pictures, num_rows - num_pictures)
        expected = tuple(self._stats.get(name) for name in ("count", "successes", "failed_to_download"))
        if found != expected:
            raise ShardError(f"{self._table}: {found} rows, pictures and failures; its statistics say {expected}")
