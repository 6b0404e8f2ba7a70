from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import ShardError, StoreError
from pipeline.fetch.draft import Draft
from pipeline.fetch.fetched import Job, fetched_tar, read_outcomes
from pipeline.fetch.judging import Answer, PictureLimits, judge
from pipeline.fetch.sources import Rejected
from pipeline.records import OUTCOME_SCHEMA, SELECTION_SCHEMA, Reason
from pipeline.selection.selection import part_path

DEAD = Rejected(reason=Reason.DEAD_LINK, detail="HTTP 404")
MISSING = Rejected(reason=Reason.MISSING_FILE, detail="no archive 00/000.zip")


def picture(size: tuple[int, int] = (64, 48), kind: str = "JPEG", shade: int = 9) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (shade, 80, 200)).save(out, kind)
    return out.getvalue()


LIMITS = PictureLimits(min_side=16, max_pixels=10**6, max_aspect=20.0, resize=None, from_flickr=True)


def judged(answers: list[tuple[int, bytes | Rejected]]) -> list[tuple[int, Answer]]:
    return [(i, answer if isinstance(answer, Rejected) else judge(answer, LIMITS)) for i, answer in answers]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """One unit of four rows."""
    rows = [
        dict.fromkeys(SELECTION_SCHEMA.names, "")
        | {"key": f"k{i}", "row": i, "photo_id": -1, "line": i, "title_usable": True, "description_usable": True}
        for i in range(4)
    ]
    part_path(tmp_path, 0).parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(tmp_path, 0))
    (tmp_path / "fetched" / "tmp").mkdir(parents=True)
    return tmp_path


def make(work: Path, *rounds: tuple[str, list[tuple[int, bytes | Rejected]]]) -> list[dict[str, Any]]:
    """Put a unit through these rounds, each as another process would, and read its outcomes."""
    for number, (source, answers) in enumerate(rounds):
        draft = Draft(work, work / "fetched" / "tmp", Job(unit=0))
        draft.take(source, judged(answers), started_unix=1.0)
        if number < len(rounds) - 1:
            draft.save()
    draft.publish()
    rows: list[dict[str, Any]] = read_outcomes(work, 0).to_pylist()
    data = fetched_tar(work, 0).read_bytes()
    with tarfile.open(fetched_tar(work, 0)) as tar:
        members = {member.name: (member.offset_data, member.size) for member in tar}
    good = [row for row in rows if row["member"]]
    assert members == {row["member"]: (row["offset"], row["num_bytes"]) for row in good}
    assert len(data) % tarfile.RECORDSIZE == 0
    for row in good:
        found = data[row["offset"] : row["offset"] + row["num_bytes"]]
        assert hashlib.sha256(found).hexdigest() == row["sha256"]
        with Image.open(io.BytesIO(found)) as image:
            assert image.size == (row["width"], row["height"])
    return rows


def test_what_one_source_lacks_the_next_is_asked_for(work: Path) -> None:
    bad = b"<html>gone</html>"
    rows = make(
        work,
        ("url", [(0, picture()), (1, DEAD), (2, bad), (3, DEAD)]),
        ("bucket", [(3, DEAD), (1, picture(shade=1)), (2, DEAD)]),
        ("zip", [(2, picture(kind="PNG")), (3, MISSING)]),
    )
    assert [row["member"] for row in rows] == ["00000000.jpg", "00000001.jpg", "00000002.png", ""]
    assert [row["source"] for row in rows] == ["url", "bucket", "zip", "bucket"]
    assert [row["reason"] for row in rows] == ["", "", "", "dead_link"], "which says more than a missing archive"
    dead = {"reason": "dead_link", "detail": "HTTP 404"}
    assert rows[0]["attempts"] == [{"source": "url", "reason": "", "detail": ""}]
    assert rows[1]["attempts"] == [{"source": "url", **dead}, {"source": "bucket", "reason": "", "detail": ""}]
    assert [(a["source"], a["reason"]) for a in rows[2]["attempts"]] == [
        ("url", "not_an_image"),
        ("bucket", "dead_link"),
        ("zip", ""),
    ]
    assert rows[3]["attempts"] == [
        {"source": "url", **dead},
        {"source": "bucket", **dead},
        {"source": "zip", "reason": "missing_file", "detail": MISSING.detail},
    ]
    assert (rows[3]["detail"], rows[3]["offset"], rows[3]["sha256"]) == (DEAD.detail, -1, "")


def test_the_bytes_do_not_depend_on_an_earlier_try(work: Path) -> None:
    answers: list[tuple[int, bytes | Rejected]] = [(0, picture()), (1, picture(shade=1)), (2, DEAD), (3, DEAD)]
    further: list[tuple[int, bytes | Rejected]] = [(2, picture(shade=2)), (3, picture(shade=3))]
    make(work, ("url", answers), ("bucket", further))
    expected = fetched_tar(work, 0).read_bytes(), pq.read_table(work / "fetched" / "00000.parquet")
    folder = work / "fetched" / "tmp"
    for source, given in (("url", answers), ("bucket", further)):
        with pytest.raises(ShardError, match="no answer for 1 rows"):
            Draft(work, folder, Job(unit=0)).take(source, judged(given)[:-1], started_unix=1.0)
        draft = Draft(work, folder, Job(unit=0))
        draft.take(source, judged(given), started_unix=2.0)
        draft.save()
    draft.publish()
    assert fetched_tar(work, 0).read_bytes() == expected[0]
    assert pq.read_table(work / "fetched" / "00000.parquet").equals(expected[1])
    assert pq.read_schema(work / "fetched" / "00000.parquet").metadata is None


def test_a_unit_without_a_single_picture(work: Path) -> None:
    rows = make(work, ("url", [(i, DEAD) for i in range(4)]))
    assert {row["reason"] for row in rows} == {"dead_link"}
    assert not fetched_tar(work, 0).read_bytes().strip(b"\0")


def test_a_disk_that_refuses_says_what_to_do(work: Path) -> None:
    draft = Draft(work, work / "gone", Job(unit=0))
    with pytest.raises(StoreError, match="make room or pass --work"):
        draft.take("url", [(i, DEAD) for i in range(4)], started_unix=1.0)


def test_the_table_has_the_schema_from_the_start(work: Path) -> None:
    draft = Draft(work, work / "fetched" / "tmp", Job(unit=0))
    draft.save()
    assert pq.read_table(work / "fetched" / "tmp" / "00000.parquet").schema.equals(OUTCOME_SCHEMA)
