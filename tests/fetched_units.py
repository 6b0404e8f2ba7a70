"""What select and fetch leave behind, made without either: units with pictures, and a source to ask again.

Pictures are random bytes of a size of their own; nothing here decodes them.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import BuildConfig
from pipeline.fetch import duplicates
from pipeline.fetch.fetched import again_path, again_tar, fetched_tar, outcomes_path
from pipeline.manifest import Manifest
from pipeline.records import OUTCOME_SCHEMA, SELECTION_SCHEMA, Funnel, Reason
from pipeline.seal import mend, rebuild, retry, seal
from pipeline.selection.selection import part_path

CONFIG = BuildConfig(metadata=("rows.tsv",), subset_list="list.tsv", output="replaced", processes=1, max_rejected=0.7)
FUNNEL = Funnel(rows=30, rejected={Reason.VIDEO: 2, Reason.NOT_IN_LIST: 10, Reason.NO_CAPTION: 0}, kept=18)
"""Of `build_units`: 18 rows were selected."""
REJECTED = {3: Reason.UNREACHABLE, 5: Reason.PLACEHOLDER}


def selection_row(i: int, **changes: Any) -> dict[str, Any]:
    """Row `i` of a selection, fit to become a sample."""
    return {
        "key": f"{(i * 7919) % 1000:03d}",  # not in the order of rows
        "row": i,
        "photo_id": i,
        "line": i,
        "bucket_key": "",
        "url": f"http://farm1.example/{i}.jpg",
        "title": f'Title {i} "ü" 東京',
        "description": f"A description, number {i}" if i % 3 else "",
        "title_usable": True,
        "description_usable": bool(i % 3),
        "user": f"user {i % 4}",
        "date_taken": "2008-01-01 00:00:00.0",
        "page_url": f"http://example/{i}/",
        "license": "CC BY" if i % 2 else "CC BY-NC",
        "license_url": "http://example/by/" if i % 2 else "http://example/by-nc/",
    } | changes


def picture(i: int) -> bytes:
    """The picture of row `i`."""
    return random.Random(i).randbytes(300 + 97 * i)


def _outcome(row: dict[str, Any], position: int, answer: bytes | Reason, tar: tarfile.TarFile) -> dict[str, Any]:
    outcome: dict[str, Any] = {name: row[name] for name in ("key", "row", "url")} | {"source": "url", "detail": ""}
    reason = "" if isinstance(answer, bytes) else str(answer)
    outcome |= {"reason": reason, "attempts": [{"source": "url", "reason": reason, "detail": f"asked {position}"}]}
    if not isinstance(answer, bytes):
        empty = {"member": "", "offset": -1, "format": "", "sha256": "", "width": 0, "height": 0, "num_bytes": 0}
        return outcome | empty | {"detail": "x"}
    form = ("jpg", "png", "webp")[position % 3]
    info = tarfile.TarInfo(f"{position:08d}.{form}")
    info.size = len(answer)
    offset = tar.offset + 512
    tar.addfile(info, io.BytesIO(answer))
    outcome |= {"member": info.name, "offset": offset, "format": form, "num_bytes": len(answer)}
    return outcome | {"width": 40, "height": 30, "sha256": hashlib.sha256(answer).hexdigest()}


def _write_answers(tar_path: Path, table_path: Path, answers: Sequence[tuple[int, dict[str, Any], Any]]) -> None:
    tar_path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar:
        outcomes = [_outcome(row, position, answer, tar) for position, row, answer in answers]
    pq.write_table(pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA), table_path)


def write_unit(
    work: Path,
    unit: int,
    rows: list[dict[str, Any]],
    rejected: Mapping[int, Reason] = REJECTED,
    pictures: Mapping[int, bytes] | None = None,
) -> None:
    """Selection, outcomes and fetched tar of a unit; `rejected` is by position, `pictures` (by row) replace its own."""
    own = pictures or {}
    part_path(work, unit).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(work, unit))
    answers = [
        (position, row, rejected.get(position, own.get(row["row"], picture(row["row"]))))
        for position, row in enumerate(rows)
    ]
    _write_answers(fetched_tar(work, unit), outcomes_path(work, unit), answers)


def build_units(folder: Path, output: str | None = None) -> tuple[BuildConfig, Path]:
    """Three fetched units: two of eight rows, and one whose pictures are all bad."""
    config, work = replace(CONFIG, output=output or str(folder / "out")), folder / "work"
    for unit in (0, 1):
        write_unit(work, unit, [selection_row(8 * unit + i) for i in range(8)])
    write_unit(work, 2, [selection_row(16 + i) for i in range(2)], dict.fromkeys(range(2), Reason.DEAD_LINK))
    return config, work


def seal_all(config: BuildConfig, work: Path) -> Manifest:
    """Seal what `build_units` made."""
    for unit in range(3):
        seal.seal_unit(config, work, unit)
    return seal.finish(config, work, FUNNEL)


def contents(folder: Path) -> dict[str, bytes]:
    """Name and bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def without_select(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules find the selection `write_unit` made, which has no marker of its own."""

    def num_units(work: Path) -> int:
        return len(list((work / "selection").glob("part-*")))

    def read_funnel(work: Path) -> Funnel | None:
        return FUNNEL if num_units(work) else None

    for module in (seal, retry, duplicates):
        monkeypatch.setattr(module, "num_units", num_units)
    for module in (mend, retry):
        monkeypatch.setattr(module, "read_funnel", read_funnel)


@dataclass
class Source:
    """Stands for `fetch_again`: what each URL gives when it is asked once more."""

    answers: dict[str, bytes | Reason] = field(default_factory=dict)
    """By URL; the others give the picture they gave before."""
    asked: list[str] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Source:
        """Be asked by repair and retry."""
        for module in (rebuild, retry):
            monkeypatch.setattr(module, "fetch_again", self.fetch_again)
        return self

    def fetch_again(
        self, config: BuildConfig, work: Path, wanted: Mapping[int, Sequence[int]], *, proxy: str | None = None
    ) -> Iterator[int]:
        """Answer as `pipeline.fetch.fetch.fetch_again` does."""
        for unit, positions in wanted.items():
            rows = pq.read_table(part_path(work, unit)).to_pylist()
            answers = []
            for position in positions:
                url = rows[position]["url"]
                self.asked.append(url)
                own = picture(int(url.rsplit("/", 1)[-1].removesuffix(".jpg")))
                answers.append((position, rows[position], self.answers.get(url, own)))
            _write_answers(again_tar(work, unit), again_path(work, unit), answers)
            yield unit
