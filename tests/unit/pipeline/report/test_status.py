from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import BuildConfig
from pipeline.fetch.fetched import outcomes_path
from pipeline.records import Reason
from pipeline.report.report import write_report
from pipeline.report.status import format_status
from pipeline.seal.seal import seal_unit
from pipeline.selection.score import SCORES_NAME, Score
from tests.small_build import fetch_unit, finished_build, note_time, select_units, settings


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    return settings(tmp_path)


def lines(config: BuildConfig, work: Path) -> dict[str, str]:
    """What is said, mark included, by its heading."""
    found = {}
    for line in format_status(config, work).splitlines()[1:]:
        found[line[2:13].strip()] = f"{line[0]} {line[13:]}".strip()
    return found


def test_nothing_has_begun(config: BuildConfig, tmp_path: Path) -> None:
    found = lines(config, tmp_path / "work")
    assert found["select"] == "· not begun"
    assert found["manifest"].startswith("· not written")
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()


def test_selection_is_under_way(config: BuildConfig, tmp_path: Path) -> None:
    (tmp_path / "work" / "selection.part").mkdir(parents=True)
    assert lines(config, tmp_path / "work")["select"] == "… under way"


def test_a_build_in_the_middle(config: BuildConfig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    select_units(work, 6)
    assert lines(config, work)["fetch"] == "· 0 of 6 units"
    for unit in range(4):
        fetch_unit(work, unit)
    fetch_unit(work, 3, [str(Reason.DEAD_LINK)] * 6)
    for unit in (0, 1, 3):
        seal_unit(config, work, unit)
    (tmp_path / "out" / "00001.tar").unlink()
    found = lines(config, work)
    assert found["select"].startswith("✓ 36 of 124 rows (29.0 %) in 6 units")
    assert found["fetch"].startswith("… 4 of 6 units: 9 pictures of 24 rows (37.5 %)")
    assert found["seal"].startswith("… 2 of 6 units: 1 shards with 3 samples")
    assert "1 without a good picture; 1 fetched and waiting; 1 MISSING" in found["seal"]
    assert found["rejected"] == "dead_link 9 (37.5 %), unreachable 3 (12.5 %), duplicate_image 3 (12.5 %)"
    assert found["can heal"].startswith("3 rows")
    assert found["rate"].startswith("1.5 pictures/s and 150 kB/s over 8 s")  # unit 3 was fetched twice at once
    assert found["left"].startswith("3 s of downloading")
    assert found["manifest"].startswith("· not written")


def test_the_recent_rate_tells_when_it_will_be_done(config: BuildConfig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    select_units(work, 10)
    (work / "fetched").mkdir()
    for unit in range(60):
        note_time(work, unit, pictures=10, rows=20, seconds=5.0)
    found = lines(config, work)
    assert found["rate"].endswith("over 5.0 min of downloading, 2.0 pictures/s lately")
    assert found["left"].startswith("15 s of downloading")


def test_a_finished_build(config: BuildConfig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    manifest = finished_build(config, work)
    assert lines(config, work)["report"] == "· not written"
    write_report(config, work, manifest)
    scores = {"/lists/other.tsv": Score(here=1, there=2, both=1, lost=None).to_json()}
    (work / "selection" / SCORES_NAME).write_text(json.dumps(scores))
    found = lines(config, work)
    assert found["manifest"] == f"✓ 6 samples in 2 shards, sha256 {manifest.sha256}"
    assert found["report"] == "✓ report.html"
    assert found["compared"] == "other.tsv: precision 1.0000, recall 0.5000, Jaccard 0.5000"
    assert "left" not in found


def note(tmp_path: Path, **changed: object) -> None:
    held = {"host": socket.gethostname(), "pid": os.getpid(), "user": "ann", "work": "/w", "token": "t"}
    content = held | {"started": time.time() - 60, "seen": time.time()} | changed
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / ".building.json").write_text(json.dumps(content))


def test_the_builder_is_named(config: BuildConfig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    note(tmp_path, host="elsewhere", pid=12)
    assert lines(config, work)["builder"].startswith("process 12 of ann on elsewhere, since 20")
    note(tmp_path)
    assert not lines(config, work)["builder"].endswith("it has ended")
    note(tmp_path, pid=2**22 + 1)  # above Linux's largest
    assert lines(config, work)["builder"].endswith("it has ended")
    (tmp_path / "out" / ".building.json").write_text("{")
    assert "cannot be read" in lines(config, work)["builder"]


def test_a_table_that_is_just_being_replaced_does_not_matter(config: BuildConfig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    select_units(work, 2)
    fetch_unit(work, 0)
    fetch_unit(work, 1)
    outcomes_path(work, 1).write_bytes(b"")
    assert "3 pictures of 6 rows" in lines(replace(config, stage="status"), work)["fetch"]
