"""What fetching leaves of a unit: good pictures in `fetched/NNNNN.tar`, every row's outcome in `fetched/NNNNN.parquet`.

Where these files are, and reading and replacing them. A unit of which only some rows were asked for once more has the
same files under `NNNNN.again.*`. Pictures are named by their row's position in the unit. The table is written last,
so where it is, the tar is whole. How the files come about is `draft`'s part.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.records import OUTCOME_SCHEMA, unit_name
from pipeline.selection.selection import part_path

_TEMP_NAME = re.compile(r"tmp-(?P<host>.+)-(?P<pid>\d+)-[^-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Rows of one unit to be fetched."""

    unit: int
    positions: tuple[int, ...] | None = None
    """Positions in the unit's selection, ascending; None: all of them."""


def fetched_tar(work: Path, unit: int) -> Path:
    """Where the good pictures of a unit are."""
    return work / "fetched" / f"{unit_name(unit)}.tar"


def outcomes_path(work: Path, unit: int) -> Path:
    """Where the outcomes of a unit are; written last."""
    return work / "fetched" / f"{unit_name(unit)}.parquet"


def again_tar(work: Path, unit: int) -> Path:
    """Where the pictures are that came when some rows of a unit were asked for once more."""
    return work / "fetched" / f"{unit_name(unit)}.again.tar"


def again_path(work: Path, unit: int) -> Path:
    """Where the outcomes of those rows are; written last."""
    return work / "fetched" / f"{unit_name(unit)}.again.parquet"


def job_files(work: Path, job: Job) -> tuple[Path, Path]:
    """Tar and table a job ends in."""
    if job.positions is None:
        return fetched_tar(work, job.unit), outcomes_path(work, job.unit)
    return again_tar(work, job.unit), again_path(work, job.unit)


def job_rows(work: Path, job: Job) -> pa.Table:
    """The selected rows a job is about, with their `position` in the unit."""
    rows = pq.read_table(part_path(work, job.unit))
    rows = rows.append_column("position", pa.array(range(rows.num_rows), pa.int64()))
    return rows if job.positions is None else rows.take(pa.array(job.positions, pa.int64()))


def is_done(work: Path, job: Job) -> bool:
    """Whether the job is finished and its pictures are still here."""
    tar, table = job_files(work, job)
    if not (table.exists() and tar.exists()):
        return False
    # Rows are asked for once more for various reasons: what is there may be the answer to another question.
    return job.positions is None or _read(table, job.unit)["key"].equals(job_rows(work, job)["key"])


def read_outcomes(work: Path, unit: int) -> pa.Table:
    """The outcome of every row of a finished unit, in the selection's order."""
    return _read(outcomes_path(work, unit), unit)


def read_again(work: Path, unit: int) -> pa.Table:
    """The outcomes of the rows that were asked for once more; their `attempts` are the further ones only."""
    return _read(again_path(work, unit), unit)


def _read(path: Path, unit: int) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: unit {unit} has not been fetched; run the build with --stage fetch") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it to fetch unit {unit} again") from error
    if not table.schema.equals(OUTCOME_SCHEMA):
        raise StoreError(f"{path}: has other columns than expected; delete it to fetch unit {unit} again")
    return table


def write_outcomes(work: Path, unit: int, table: pa.Table) -> None:
    """Replace the outcomes of a unit, whole or not at all."""
    path = outcomes_path(work, unit)
    with disk_faults(path):
        handle, name = tempfile.mkstemp(prefix=temp_prefix(), dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write_table(file, table)
            Path(name).chmod(0o644)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def write_table(file: object, table: pa.Table) -> None:
    """Write a table of outcomes to an open file, down to the disk."""
    pq.write_table(table.select(OUTCOME_SCHEMA.names).cast(OUTCOME_SCHEMA), file)
    sync(file)


def sync(file: object) -> None:
    """Have an open file's bytes on the disk before it gets its final name."""
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Say what to do when the disk refuses."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror or error}; make room or pass --work with another folder, then run again"
        ) from error


def temp_prefix() -> str:
    """Beginning of the names of temporary files and folders: several machines may fetch into one folder."""
    return f"tmp-{socket.gethostname()}-{os.getpid()}-"


def sweep(work: Path) -> None:
    """Remove temporary files of builds on this machine that were killed."""
    for path in (work / "fetched").glob("tmp-*"):
        match = _TEMP_NAME.fullmatch(path.name)
        if match is None or match["host"] != socket.gethostname() or _is_alive(int(match["pid"])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
