"""Room: each limit has its row, with the node that has least; memory limits are found where Slurm sets them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from slip.doctor.space_check import SpaceFacts, available_memory, judge_space, memory_limit, space_facts

GB = 10**9
ROOMY = SpaceFacts(
    output_free=100 * GB,
    tmp_folder="/tmp",
    tmp_free=50 * GB,
    memory_available=64 * GB,
    shm_free=32 * GB,
    ranks=8,
)
LIMITS = DoctorConfig(output="runs", min_free_gb=10, min_tmp_gb=2, min_memory_gb=4)


def judged(*facts: SpaceFacts, config: DoctorConfig = LIMITS) -> list[Finding]:
    return judge_space([Answer(rank=i, node="abc"[i], value=one) for i, one in enumerate(facts)], config)


def test_room_is_fine() -> None:
    (found,) = judged(ROOMY, dataclasses.replace(ROOMY, tmp_free=7 * GB))
    assert (found.level, found.where) == ("OK", ("a", "b"))
    assert found.found == (
        "free at least: 100 GB where the run writes, 7 GB in the temporary folder, 8.0 GB of memory for each rank"
    )


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({"output_free": 9 * GB}, "BAD", "9.0 GB are free at runs; --min-free-gb asks for 10"),
        ({"tmp_free": GB}, "WARN", "1.0 GB are free in /tmp; --min-tmp-gb asks for 2"),
        ({"memory_available": 31 * GB}, "WARN", "3.9 GB of host memory for each rank; --min-memory-gb asks for 4"),
        ({"shm_free": GB // 16}, "WARN", "0.06 GB are free in /dev/shm"),
    ],
)
def test_too_little_names_the_node(change: dict[str, Any], level: str, text: str) -> None:
    (found,) = judged(ROOMY, dataclasses.replace(ROOMY, **change), ROOMY)
    assert (found.level, found.where) == (level, ("b",))
    assert found.found.startswith(text)
    assert found.advice


def test_what_is_not_used_is_not_asked_for() -> None:
    (found,) = judged(dataclasses.replace(ROOMY, output_free=None, shm_free=None))
    assert found.level == "OK"
    assert "where the run writes" not in found.found


def test_the_tightest_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    step = tmp_path / "slurm/job_7/step_0"
    step.mkdir(parents=True)
    (step / "memory.max").write_text("max\n")
    (step.parent / "memory.max").write_text("5000\n")
    (step.parent.parent / "memory.max").write_text("9000\n")
    assert memory_limit("0::/slurm/job_7/step_0\n", tmp_path) == 5000
    assert memory_limit("0::/slurm\n", tmp_path) == 9000
    assert memory_limit("0::/\n", tmp_path) is None
    assert memory_limit("4:memory:/slurm\n", tmp_path) is None


def test_available_memory_is_in_bytes() -> None:
    assert available_memory("MemTotal:  9 kB\nMemAvailable:   3 kB\n") == 3072
    with pytest.raises(ValueError, match="MemAvailable"):
        available_memory("MemTotal: 9 kB\n")


def test_this_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 3, 7))
    found = space_facts(str(tmp_path / "not/there/yet"), on_gpu=False, ranks_here=2)
    assert (found.output_free, found.tmp_free, found.shm_free, found.ranks) == (7, 7, None, 2)
    assert found.memory_available > 0
    assert space_facts("memory://x", on_gpu=True, ranks_here=2).output_free is None
    assert space_facts("memory://x", on_gpu=True, ranks_here=2).shm_free == 7
    assert not (tmp_path / "not").exists()
