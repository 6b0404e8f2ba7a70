"""`slip doctor` on two ranks that pretend to be two nodes: once all is well, once the second node is unlike the first.

Run as: python test_doctor.py FOLDER PORT RANK, it is one of the ranks and makes both check-ups.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.ports import free_port
from tests.ranks import start_and_wait
from tests.tiny_data import write_shards

NODES = ("first", "second")
CHECKS = ["ranks", "versions", "output", "space", "clock", "manifest", "reading", "checkpoint", "all-reduce", "pace"]
LIMITS = ["--min-free-gb", "0", "--min-tmp-gb", "0", "--min-memory-gb", "0", "--min-write-mb-s", "0"]


def run_rank(folder: Path, port: int, rank: int) -> None:
    """Both check-ups, results in FOLDER/NAME-RANK.json: status and standard output."""
    from slip.doctor import examine, version_check
    from slip.doctor.command import main

    def check_up(name: str, number: int, output: str) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "SLURMD_NODENAME": NODES[rank]}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port + number)}
        words = ["--manifest", str(folder / "data"), "--output", str(folder / output), "--json", *LIMITS]
        words += ["--write-mb", "1", "--read-mb", "1", "--reduce-mb", "1", "--max-skew-s", "60", "--timeout-s", "60"]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = main(words)
        (folder / f"{name}-{rank}.json").write_text(json.dumps([status, out.getvalue()]))

    check_up("well", 0, "runs")
    found = version_check.versions() | ({"timm": "0.0.1"} if rank else {})
    with patch.object(examine, "versions", lambda: found), patch.object(examine, "VISIBLE_S", 0.3):
        check_up("unlike", 1, f"runs-{rank}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    write_shards(folder / "data", [4, 3])
    start_and_wait([sys.executable, __file__, str(folder), str(free_port(2))], 2)
    return folder


def results(folder: Path, name: str) -> tuple[list[int], list[str]]:
    """Status and output of both ranks."""
    found = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]
    return [status for status, _ in found], [out for _, out in found]


def findings(out: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(out)["findings"]
    return rows


def test_when_all_is_well_every_check_is_made_and_fine(folder: Path) -> None:
    status, (out, silent) = results(folder, "well")
    assert status == [0, 0]
    assert silent == ""
    rows = findings(out)
    assert [row["check"] for row in rows] == CHECKS
    assert {row["level"] for row in rows} == {"OK"}, rows
    for row in rows:
        assert row["where"] == (["first"] if row["check"] == "checkpoint" else list(NODES))
    assert rows[0]["found"] == "2 ranks, 1 on each node, on the CPU"
    assert "GB/s of bus bandwidth (1 MB in" in rows[8]["found"]


def test_a_node_that_is_unlike_the_others_is_named(folder: Path) -> None:
    status, (out, silent) = results(folder, "unlike")
    assert status == [1, 0]
    assert silent == ""
    bad = {row["check"]: row for row in findings(out) if row["level"] == "BAD"}
    assert sorted(bad) == ["output", "versions"]
    assert bad["versions"]["found"].startswith("timm: ")
    assert "0.0.1 on second" in bad["versions"]["found"]
    assert bad["versions"]["where"] == list(NODES)
    assert bad["output"]["where"] == ["second"]


def test_nothing_is_left_behind(folder: Path) -> None:
    left = {path.name for path in folder.iterdir()}
    assert left == {"data", *(f"{name}-{rank}.json" for name in ("well", "unlike") for rank in range(2))}


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
