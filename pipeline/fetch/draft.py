"""A unit in the making: each source's answers are added until nothing is missing or nobody is left to ask.

In come answers (pictures that are kept, or why there are none), out go the unit's tar and table (`fetched`), each whole
or not at all. In between both lie in a temporary folder, so that another process may add the next source's answers.
Pictures follow each other in the tar as the answers came in, source by source; that order depends on the answers
alone. A row's outcome is its last answer's, and keeps all of them as attempts.
"""

from __future__ import annotations

import json
import os
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardError
from pipeline.fetch.fetched import Job, disk_faults, job_files, job_rows, sync, write_table
from pipeline.fetch.judging import Answer
from pipeline.fetch.sources import Rejected
from pipeline.fetch.timing import timing_path
from pipeline.records import OUTCOME_SCHEMA, Reason, unit_name
from pipeline.seal.shard import header

_UNASKED = {"source": "", "reason": "", "detail": "", "member": "", "offset": -1, "format": ""} | {
    "width": 0,
    "height": 0,
    "num_bytes": 0,
    "sha256": "",
}


class Draft:
    """A job's outcomes so far; made, changed and saved by one process at a time."""

    def __init__(self, work: Path, folder: Path, job: Job) -> None:
        self.job = job
        self.rows = job_rows(work, job)
        """The selected rows the job is about."""
        self._work = work
        self._tar = folder / f"{unit_name(job.unit)}.tar"
        self._table = folder / f"{unit_name(job.unit)}.parquet"
        if self._table.exists():
            saved = pq.read_table(self._table)
            self._outcomes = saved.to_pylist()
            notes = json.loads(saved.schema.metadata[b"draft"])
            self._tar_bytes, self._started_unix = notes["tar_bytes"], notes["started_unix"]
        else:
            names = ("key", "row", "url")
            self._outcomes = [_UNASKED | row | {"attempts": []} for row in self.rows.select(names).to_pylist()]
            self._tar_bytes, self._started_unix = 0, 0.0

    @property
    def missing(self) -> list[int]:
        """Indices of the rows without a good picture."""
        return [index for index, outcome in enumerate(self._outcomes) if not outcome["member"]]

    @property
    def pictures(self) -> tuple[int, int]:
        """Good pictures so far, and their bytes."""
        good = [outcome["num_bytes"] for outcome in self._outcomes if outcome["member"]]
        return len(good), sum(good)

    def take(self, source: str, answers: Iterable[tuple[int, Answer]], *, started_unix: float) -> None:
        """Add one answer of `source` for each missing row; `started_unix` is when it was first asked."""
        missing = set(self.missing)
        positions = self.rows["position"].to_pylist()
        with disk_faults(self._tar), self._tar.open("r+b" if self._tar_bytes else "wb") as file:
            file.truncate(self._tar_bytes)  # an earlier try may have got further before its files did not verify
            file.seek(self._tar_bytes)
            for index, answer in answers:
                missing.remove(index)
                found = _outcome(answer, positions[index], file)
                before = self._outcomes[index]
                attempt = {"source": source, "reason": found["reason"], "detail": found["detail"]}
                # That one more source does not have a picture says less than why another did not give it.
                if not before["reason"] or found["reason"] != Reason.MISSING_FILE:
                    self._outcomes[index] = before | found | {"source": source}
                self._outcomes[index]["attempts"] = [*before["attempts"], attempt]
            self._tar_bytes = file.tell()
            sync(file)
        if missing:
            raise ShardError(f"{self._tar}: {source} gave no answer for {len(missing)} rows")
        self._started_unix = self._started_unix or started_unix

    def save(self) -> None:
        """Leave the draft for the next source."""
        notes = {"tar_bytes": self._tar_bytes, "started_unix": self._started_unix}
        schema = OUTCOME_SCHEMA.with_metadata({"draft": json.dumps(notes)})
        with disk_faults(self._table):
            pq.write_table(pa.Table.from_pylist(self._outcomes, schema=schema), self._table)

    def publish(self) -> None:
        """Give tar and table their final names, and note when and how much."""
        tar, table = job_files(self._work, self.job)
        with disk_faults(tar):
            with self._tar.open("r+b" if self._tar_bytes else "wb") as file:
                file.seek(self._tar_bytes)
                file.write(bytes(2 * tarfile.BLOCKSIZE))
                file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
                sync(file)
            with self._table.open("wb") as file:
                write_table(file, pa.Table.from_pylist(self._outcomes, schema=OUTCOME_SCHEMA))
            os.replace(self._tar, tar)
            os.replace(self._table, table)
        self._note_time()

    def _note_time(self) -> None:
        num_pictures, num_bytes = self.pictures
        ended_unix = time.time()
        line = {"unit": self.job.unit, "ended_unix": round(ended_unix, 3)}
        line |= {"seconds": round(max(0.0, ended_unix - self._started_unix), 3), "rows": len(self._outcomes)}
        line |= {"pictures": num_pictures, "bytes": num_bytes}
        with suppress(OSError):  # for people only
            handle = os.open(timing_path(self._work), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, (json.dumps(line) + "\n").encode())  # in one write, since several machines append
            finally:
                os.close(handle)


def _outcome(answer: Answer, position: int, tar: BinaryIO) -> dict[str, Any]:
    """The columns of an outcome that one answer decides; a good picture is appended to the tar."""
    if isinstance(answer, Rejected):
        size = {"width": answer.width, "height": answer.height}
        return size | {"reason": str(answer.reason), "detail": answer.detail}
    picture, data = answer.picture, answer.data
    # Named by position: keys are the user's own and may be longer than a tar header holds.
    member = f"{position:08d}.{picture.format}"
    tar.write(header(member, len(data)))
    found = {"member": member, "offset": tar.tell(), "format": picture.format, "num_bytes": len(data)}
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    size = {"width": picture.width, "height": picture.height}
    return size | found | {"reason": "", "detail": "", "sha256": answer.sha256}
