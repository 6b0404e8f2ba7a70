"""Four ranks of which one is killed, frozen, fails or is slow: who ends, and what the log says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOST, ERROR = 69, 3
"""Exit codes: a lookout ended the process; a collective failed and the main thread did."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    worker = Path(__file__).with_name("lookout_worker.py")
    ended = subprocess.run([sys.executable, str(worker), str(folder)], env=env, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr.decode()
    for log in folder.glob("*.log"):
        found = log.read_text()
        assert "Timeout (" not in found, f"{log.stem} did not end\n{found}"
    return folder


def codes(folder: Path, scene: str) -> list[int]:
    found: list[int] = json.loads((folder / "codes.json").read_text())[scene]
    return found


def alarms(folder: Path, scene: str, rank: int) -> list[str]:
    """What a rank logged, warnings of libraries left out."""
    lines = (folder / f"{scene}-{rank}.log").read_text().splitlines()
    return [line for line in lines if line.startswith(("ERROR: ", "WARNING: "))]


def errors(folder: Path, scene: str, rank: int) -> list[str]:
    return [line for line in alarms(folder, scene, rank) if line.startswith("ERROR: ")]


SILENT = r"rank 2 \([^ ]+, pid \d+\) is silent for \d+ s; when last heard it was in step 7, "
GONE = r"rank 0 \([^ ]+, pid \d+\) is gone: its store at 127\.0\.0\.1:\d+ is closed; when last heard it was in step 7, "


def test_the_others_name_a_killed_rank(scenes: Path) -> None:
    found = codes(scenes, "killed")
    assert found.pop(2) == -signal.SIGKILL
    # Of a ring of ranks the neighbours get the error first; the lookout may be faster than what follows from it.
    assert set(found) <= {ERROR, LOST}
    assert ERROR in found
    for rank in (0, 1, 3):
        (line,) = errors(scenes, "killed", rank)
        assert re.match(rf"ERROR: (collective: )?{SILENT}", line), line


def test_the_others_of_a_frozen_rank_end_and_name_it(scenes: Path) -> None:
    assert codes(scenes, "frozen") == [LOST, LOST, -signal.SIGKILL, LOST]
    for rank in (0, 1, 3):
        (line,) = errors(scenes, "frozen", rank)
        assert re.match(rf"ERROR: {SILENT}.*; this process ends", line), line


def test_the_others_name_rank_0_whose_store_is_gone(scenes: Path) -> None:
    found = codes(scenes, "first_killed")
    assert found[0] == -signal.SIGKILL
    assert found[1] in (ERROR, LOST)
    # No error reaches these two.
    assert found[2:] == [LOST, LOST]
    for rank in (1, 2, 3):
        (line,) = errors(scenes, "first_killed", rank)
        assert re.match(rf"ERROR: (collective: )?{GONE}", line), line


def test_the_others_name_rank_0_whose_store_does_not_answer(scenes: Path) -> None:
    assert codes(scenes, "first_frozen") == [-signal.SIGKILL, LOST, LOST, LOST]
    for rank in (1, 2, 3):
        (line,) = errors(scenes, "first_frozen", rank)
        assert re.match(rf"ERROR: {GONE.replace('is closed', 'has not answered for .* s')}", line), line


def test_an_error_of_one_rank_reaches_all(scenes: Path) -> None:
    assert codes(scenes, "failed") == [LOST, LOST, LOST, 1]
    for rank in (0, 1, 2):
        (line,) = errors(scenes, "failed", rank)
        words = r"rank 3 \([^ ]+, pid \d+\) ended with an error in step 7, at work: ValueError: a picture that is none;"
        assert re.match(rf"ERROR: {words}", line), line


def test_a_slow_rank_is_named_and_not_taken_for_lost(scenes: Path) -> None:
    # It slept for five times as long as a silent one has; then all left, each at its own moment, rank 0 first.
    assert codes(scenes, "slow") == [0, 0, 0, 0]
    assert errors(scenes, "slow", 0) == []
    words = r"WARNING: 3 ranks have waited in a collective for up to \d+ s for rank 1 \([^ ]+, pid \d+\), in step 7, at"
    assert any(re.match(words, line) for line in alarms(scenes, "slow", 0))
    for rank in (1, 2, 3):
        assert (scenes / f"slow-{rank}.log").read_text() == ""
