"""A build of a few rows, as the stages leave it: selection, outcomes, fetched tars, times; sealed if asked for."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import BuildConfig
from pipeline.fetch.fetched import fetched_tar, outcomes_path
from pipeline.manifest import Manifest
from pipeline.records import OUTCOME_SCHEMA, SELECT_REASONS, SELECTION_SCHEMA, Reason
from pipeline.seal.seal import finish, seal_unit
from pipeline.selection.selection import part_path, read_funnel

ROWS_PER_UNIT = 6
REASONS = ("", "", "", str(Reason.DEAD_LINK), str(Reason.UNREACHABLE), str(Reason.DUPLICATE_IMAGE))
"""What becomes of each unit's rows."""


def settings(tmp_path: Path) -> BuildConfig:
    """Settings whose inputs nobody reads any more."""
    return BuildConfig(
        metadata=(str(tmp_path / "rows.tsv"),),
        subset_list=str(tmp_path / "list.tsv"),
        output=str(tmp_path / "out"),
        work=str(tmp_path / "work"),
        prefer=("url", "bucket"),
        samples_per_shard=ROWS_PER_UNIT,
        max_rejected=1.0,
    )


def picture(number: int) -> bytes:
    """A small JPEG, another one for each number."""
    out = io.BytesIO()
    size = [(40, 30), (30, 40), (32, 32)][number % 3]
    Image.frombytes("RGB", size, random.Random(number).randbytes(3 * size[0] * size[1])).save(out, "JPEG")
    return out.getvalue()


def _selected(unit: int, i: int) -> dict[str, object]:
    row = unit * ROWS_PER_UNIT + i
    return {
        "key": str(1000 + row),
        "row": row,
        "photo_id": 1000 + row,
        "line": row,
        "bucket_key": "ab" * 16,
        "url": f"http://farm.example/{row}.jpg",
        "title": f"Title {row}",
        "description": f"Seven quiet boats on the water {row}" if i % 2 else "",
        "title_usable": i != 1,
        "description_usable": bool(i % 2),
        "user": f"<b>user & {row}</b>",
        "date_taken": f"{2007 + i % 2}-07-14 12:00:00.0",
        "page_url": f"http://www.flickr.com/photos/x/{row}/",
        "license": "Attribution-NoDerivs License",
        "license_url": "http://creativecommons.org/licenses/by-nd/2.0/",
    }


def _outcome(selected: dict[str, object], reason: str, tar: tarfile.TarFile) -> dict[str, object]:
    found: dict[str, object] = {name: selected[name] for name in ("key", "row", "url")}
    attempts = [{"source": "url", "reason": "" if reason in {"", "duplicate_image"} else reason, "detail": "x"}]
    if attempts[0]["reason"]:
        attempts.append({"source": "bucket", "reason": "dead_link", "detail": "HTTP 404"})
    found |= {"source": attempts[-1]["source"], "attempts": attempts, "reason": reason}
    found |= {"detail": "same bytes as 1000 of unit 00000" if reason == "duplicate_image" else reason}
    found |= {"member": "", "offset": -1, "format": "", "width": 0, "height": 0, "num_bytes": 0, "sha256": ""}
    if reason == "":
        number = int(str(selected["row"]))
        data = picture(number)
        width, height = Image.open(io.BytesIO(data)).size
        member = tarfile.TarInfo(f"{number % ROWS_PER_UNIT:08d}.jpg")
        member.size = len(data)
        found |= {"member": member.name, "offset": tar.offset + tarfile.BLOCKSIZE, "format": "jpg"}
        tar.addfile(member, io.BytesIO(data))
        found |= {"width": width, "height": height}
        found |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return found


def select_units(work: Path, num_units: int) -> None:
    """Leave a finished selection."""
    (work / "selection").mkdir(parents=True)
    for unit in range(num_units):
        rows = [_selected(unit, i) for i in range(ROWS_PER_UNIT)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(work, unit))
    kept = num_units * ROWS_PER_UNIT
    rejected = {str(reason): 0 for reason in SELECT_REASONS} | {"not_in_list": 88}
    marker = {"rows": kept + 88, "kept": kept, "rejected": rejected, "num_units": num_units}
    (work / "selection" / "funnel.json").write_text(json.dumps(marker))


def fetch_unit(work: Path, unit: int, reasons: Sequence[str] = REASONS) -> None:
    """Leave a fetched unit."""
    (work / "fetched").mkdir(exist_ok=True)
    with tarfile.open(fetched_tar(work, unit), "w", format=tarfile.USTAR_FORMAT) as tar:
        outcomes = [_outcome(_selected(unit, i), reason, tar) for i, reason in enumerate(reasons)]
    pq.write_table(pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA), outcomes_path(work, unit))
    note_time(work, unit, pictures=list(reasons).count(""))


def note_time(work: Path, unit: int, *, pictures: int, rows: int = ROWS_PER_UNIT, seconds: float = 2.0) -> None:
    """Append a line to the times: units follow each other."""
    line = {"unit": unit, "ended_unix": 1.7e9 + seconds * (unit + 1), "seconds": seconds, "rows": rows}
    with (work / "fetched" / "timing.jsonl").open("a") as file:
        file.write(json.dumps(line | {"pictures": pictures, "bytes": 100_000 * pictures}) + "\n")


def finished_build(config: BuildConfig, work: Path, num_units: int = 2) -> Manifest:
    """Leave a finished build."""
    select_units(work, num_units)
    for unit in range(num_units):
        fetch_unit(work, unit)
        seal_unit(config, work, unit)
    funnel = read_funnel(work)
    assert funnel is not None
    return finish(config, work, funnel)
