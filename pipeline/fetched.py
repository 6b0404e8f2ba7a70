"""One fetched unit: `fetched/NNNNN.tar` with its good pictures and `fetched/NNNNN.parquet` with every row's outcome.

In come what img2dataset left for a unit, or local pictures; out go those two files, the table last, with the
same bytes whatever the timing was. These functions run in worker processes; who calls them when is `fetch`'s part.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardError, StoreError
from pipeline.records import OUTCOME_SCHEMA, unit_name
from pipeline.selection import part_path
from pipeline.sources import Picture, Rejected, classify_error, classify_picture, read_local

_TAR_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What a picture must keep to; see the settings of the same names."""

    min_side: int
    max_pixels: int
    from_flickr: bool


def fetched_tar(work: Path, unit: int) -> Path:
    """Where the good pictures of a unit are."""
    return work / "fetched" / f"{unit_name(unit)}.tar"


def outcomes_path(work: Path, unit: int) -> Path:
    """Where the outcomes of a unit are; written last."""
    return work / "fetched" / f"{unit_name(unit)}.parquet"


def is_fetched(work: Path, unit: int) -> bool:
    """Whether the unit is finished and its pictures are still here."""
    return outcomes_path(work, unit).exists() and fetched_tar(work, unit).exists()


def read_outcomes(work: Path, unit: int) -> pa.Table:
    """The outcome of every row of a finished unit, in the selection's order."""
    path = outcomes_path(work, unit)
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: unit {unit} has not been fetched; run the build with --stage fetch") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it to fetch unit {unit} again") from error
    if not table.schema.equals(OUTCOME_SCHEMA):
        raise StoreError(f"{path}: has other columns than expected; delete it to fetch unit {unit} again")
    return table


def finish_local(work: Path, unit: int, limits: PictureLimits) -> int:
    """Read, check and write a unit of `--source local`; returns the unit."""
    selection = pq.read_table(part_path(work, unit))
    write_unit(work, unit, selection, read_local(selection["url"].to_pylist()), limits)
    return unit


def finish_download(work: Path, folder: Path, shard: str, limits: PictureLimits) -> int:
    """Check what img2dataset left under `folder/shard.*`, write the unit it belongs to and return that unit.

    ShardError when files contradict each other or the selection: img2dataset returns normally after a full
    disk, and what it wrote then must not be believed.
    """
    tar, table = folder / f"{shard}.tar", folder / f"{shard}.parquet"
    try:
        rows = pq.read_table(table)
        stats = json.loads((folder / f"{shard}_stats.json").read_bytes())
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise ShardError(f"{table}: cannot be read: {error}") from None
    units = rows["unit"].unique().to_pylist()
    if len(units) != 1:
        raise ShardError(f"{table}: rows of units {units}, expected one unit")
    unit = int(units[0])
    selection = pq.read_table(part_path(work, unit))
    rows = rows.sort_by("position")
    _check_rows(table, rows, selection, stats)
    write_unit(work, unit, selection, _answers(tar, rows), limits)
    tar.unlink()
    table.unlink()
    return unit


def write_unit(
    work: Path, unit: int, selection: pa.Table, answers: Iterable[bytes | Rejected], limits: PictureLimits
) -> None:
    """Classify the answers (one per row of the selection) and write tar and outcomes, each whole or not at all."""
    tar_path, table_path = fetched_tar(work, unit), outcomes_path(work, unit)
    tar_part, table_part = tar_path.with_name(tar_path.name + ".part"), table_path.with_name(table_path.name + ".part")
    outcomes: dict[str, list[Any]] = {name: [] for name in OUTCOME_SCHEMA.names}
    try:
        with tar_part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for index, answer in enumerate(answers):
                    for name, value in _outcome(index, answer, limits, tar).items():
                        outcomes[name].append(value)
            file.flush()
            os.fsync(file.fileno())
        for name in ("key", "row", "url"):
            outcomes[name] = selection[name].to_pylist()
        with table_part.open("wb") as file:
            pq.write_table(pa.table(outcomes, schema=OUTCOME_SCHEMA), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tar_part, tar_path)
        os.replace(table_part, table_path)
    except OSError as error:
        raise StoreError(
            f"{tar_path}: {error.strerror or error}; make room or pass --work with another folder, then run again"
        ) from error
    finally:
        tar_part.unlink(missing_ok=True)
        table_part.unlink(missing_ok=True)


def _outcome(index: int, answer: bytes | Rejected, limits: PictureLimits, tar: tarfile.TarFile) -> dict[str, Any]:
    """The columns of one outcome that fetching decides; a good picture goes into the tar."""
    verdict: Picture | Rejected
    if isinstance(answer, Rejected):
        verdict = answer
    else:
        verdict = classify_picture(
            answer, min_side=limits.min_side, max_pixels=limits.max_pixels, from_flickr=limits.from_flickr
        )
    found = {"reason": "", "detail": "", "member": "", "format": "", "num_bytes": 0, "sha256": ""}
    size = {"width": verdict.width, "height": verdict.height}
    if isinstance(verdict, Rejected):
        return found | size | {"reason": str(verdict.reason), "detail": verdict.detail}
    assert isinstance(answer, bytes)
    # Named by position: keys are the user's own and may be longer than a tar header holds.
    member = tarfile.TarInfo(f"{index:08d}.{verdict.format}")
    member.size = len(answer)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(answer))
    picture = {"member": member.name, "format": verdict.format, "num_bytes": len(answer)}
    return found | size | picture | {"sha256": hashlib.sha256(answer).hexdigest()}


def _check_rows(table: Path, rows: pa.Table, selection: pa.Table, stats: dict[str, Any]) -> None:
    """Every selected row is there once, with its URL, and counts agree with img2dataset's own."""
    num_rows = selection.num_rows
    if rows["position"].to_pylist() != list(range(num_rows)):
        raise ShardError(f"{table}: {rows.num_rows} rows that are not the {num_rows} selected ones")
    if rows["url"].to_pylist() != selection["url"].to_pylist():
        raise ShardError(f"{table}: URLs differ from the selection's")
    status = rows["status"].to_pylist()
    num_pictures = status.count("success")
    found = (num_rows, num_pictures, num_rows - num_pictures)
    expected = (stats.get("count"), stats.get("successes"), stats.get("failed_to_download"))
    if found != expected:
        raise ShardError(f"{table}: {found} rows, pictures and failures; its statistics say {expected}")


def _answers(tar_path: Path, rows: pa.Table) -> Iterator[bytes | Rejected]:
    """What came for each row, read from img2dataset's tar and compared with the digest it noted while downloading."""
    members = _members(tar_path)
    num_pictures = rows["status"].to_pylist().count("success")
    if len(members) != num_pictures:
        raise ShardError(f"{tar_path}: {len(members)} pictures, expected {num_pictures}")
    with tar_path.open("rb") as file:
        columns = ("key", "status", "error_message", "sha256")
        for key, status, message, sha256 in zip(*(rows[name].to_pylist() for name in columns), strict=True):
            if status != "success":
                yield classify_error(message or "")
                continue
            if key not in members:
                raise ShardError(f"{tar_path}: picture {key} is missing")
            offset, size = members[key]
            file.seek(offset)
            data = file.read(size)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ShardError(f"{tar_path}: picture {key} differs from what was downloaded")
            yield data


def _members(tar_path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each picture in img2dataset's tar; ShardError unless the tar ends as a whole one does."""
    try:
        with tarfile.open(tar_path, "r:") as tar:
            members = {m.name.removesuffix(".jpg"): (m.offset_data, m.size) for m in tar if m.name.endswith(".jpg")}
            end = tar.offset
        with tar_path.open("rb") as file:
            file.seek(end)
            tail = file.read()
    except (OSError, tarfile.TarError) as error:
        raise ShardError(f"{tar_path}: cannot be read: {error}") from None
    # Without this a tar cut between two members would pass for a whole one.
    if len(tail) < 2 * _TAR_BLOCK_BYTES or any(tail):
        raise ShardError(f"{tar_path}: ends early")
    return members
