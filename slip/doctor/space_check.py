"""Room on each node: disk where the run writes, the temporary folder, host memory, and shared memory for nccl."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import store
from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding

CHECK = "space"

# nccl's ranks of one node talk through it; containers are often given 64 MB. NCCL's documentation recommends 1 GB:
# https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html (Docker).
_MIN_SHM_GB = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFacts:
    """Free bytes on one node."""

    output_free: int | None
    """Where the run writes; None where that is no folder."""
    tmp_folder: str
    tmp_free: int
    memory_available: int
    """Of the node, or of the job if it may have less."""
    shm_free: int | None
    """None where nothing would use it."""
    ranks: int
    """That share all this."""


def memory_limit(cgroup: str, root: Path) -> int | None:
    """Bytes that a process may use by its control groups; None where they set no limit.

    Args:
        cgroup: content of /proc/self/cgroup: version 2 has one line, "0::/path"
            (https://docs.kernel.org/admin-guide/cgroup-v2.html).
        root: where the groups are mounted.
    """
    paths = [line.removeprefix("0::").strip("/") for line in cgroup.splitlines() if line.startswith("0::")]
    if not paths:
        return None
    limits: list[int] = []
    group = root / paths[0]
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            text = (folder / "memory.max").read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=None)


def available_memory(meminfo: str) -> int:
    """Bytes that can be had without swapping, from /proc/meminfo: "MemAvailable: 2 kB" -> 2048."""
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise ValueError("/proc/meminfo has no line MemAvailable")


def _free(folder: Path) -> int:
    """Free bytes where a folder is or would be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def space_facts(output: str, *, on_gpu: bool, ranks_here: int) -> SpaceFacts:
    """Look at this node."""
    limit = memory_limit(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    available = available_memory(Path("/proc/meminfo").read_text())
    shm = Path("/dev/shm")
    return SpaceFacts(
        output_free=_free(Path(store.filesystem(output)[1]).absolute()) if store.is_local(output) else None,
        tmp_folder=tempfile.gettempdir(),
        tmp_free=_free(Path(tempfile.gettempdir())),
        memory_available=available if limit is None else min(available, limit),
        shm_free=_free(shm) if on_gpu and ranks_here > 1 and shm.exists() else None,
        ranks=ranks_here,
    )


def judge_space(answers: Sequence[Answer[SpaceFacts]], config: DoctorConfig) -> list[Finding]:
    """Compare with the limits; the tightest node is told of."""
    facts = {answer.node: answer.value for answer in answers if answer.value is not None}

    def short_of(gb: Callable[[SpaceFacts], float | None], least_gb: float) -> dict[str, float]:
        """Nodes with too little, and how much that is in GB."""
        found = {node: gb(one) for node, one in facts.items()}
        return {node: value for node, value in found.items() if value is not None and value < least_gb}

    output = short_of(lambda one: None if one.output_free is None else one.output_free / 1e9, config.min_free_gb)
    tmp = short_of(lambda one: one.tmp_free / 1e9, config.min_tmp_gb)
    memory = short_of(lambda one: one.memory_available / one.ranks / 1e9, config.min_memory_gb)
    shm = short_of(lambda one: None if one.shm_free is None else one.shm_free / 1e9, _MIN_SHM_GB)
    found: list[Finding] = []
    if output:
        text = (
            f"{min(output.values()):.1f} GB are free at {config.output}; --min-free-gb asks for {config.min_free_gb:g}"
        )
        advice = "free some space, or write elsewhere"
        found.append(Finding(level="BAD", check=CHECK, where=tuple(output), found=text, advice=advice))
    if tmp:
        folder = facts[min(tmp, key=lambda node: tmp[node])].tmp_folder
        text = f"{min(tmp.values()):.1f} GB are free in {folder}; --min-tmp-gb asks for {config.min_tmp_gb:g}"
        advice = "free some space, or let TMPDIR name another folder"
        found.append(Finding(level="WARN", check=CHECK, where=tuple(tmp), found=text, advice=advice))
    if memory:
        text = (
            f"{min(memory.values()):.1f} GB of host memory for each rank; --min-memory-gb asks for "
            f"{config.min_memory_gb:g}"
        )
        advice = "ask for more memory (--mem), or read less ahead (--data.prefetch-mb)"
        found.append(Finding(level="WARN", check=CHECK, where=tuple(memory), found=text, advice=advice))
    if shm:
        text = f"{min(shm.values()):.2f} GB are free in /dev/shm, through which the ranks of a node talk"
        advice = "start the container with --shm-size=1g --ulimit memlock=-1"
        found.append(Finding(level="WARN", check=CHECK, where=tuple(shm), found=text, advice=advice))
    return found or [_fine(facts)]


def _fine(facts: dict[str, SpaceFacts]) -> Finding:
    free = [one.output_free for one in facts.values() if one.output_free is not None]
    parts = [f"{min(free) / 1e9:.0f} GB where the run writes"] if free else []
    parts += [
        f"{min(one.tmp_free for one in facts.values()) / 1e9:.0f} GB in the temporary folder",
        f"{min(one.memory_available / one.ranks for one in facts.values()) / 1e9:.1f} GB of memory for each rank",
    ]
    return Finding(level="OK", check=CHECK, where=tuple(facts), found=f"free at least: {', '.join(parts)}")
