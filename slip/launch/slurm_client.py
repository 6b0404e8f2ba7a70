"""Slurm as launching sees it: what partitions and nodes there are, what is in the queue, what has ended.

Every question has a time limit and is asked of a client on the PATH. The queue is the controller's; what has ended is
known to accounting, which not every cluster has, so nothing here fails without it.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import StoreError

logger = logging.getLogger(__name__)

CLIENT_TIMEOUT_S = 60.0
"""Seconds for an answer of Slurm's controller."""

_QUEUE = (
    ("JobArrayID", 40),
    ("State", 20),
    ("RestartCnt", 10),
    ("NodeList", 256),
    ("Reason", 80),
    # Last, as it may hold what is wider than it is long.
    ("Command", 4096),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A job in the queue."""

    job: str
    """Id, as "1234", or "1234_5" for a task of an array."""
    state: str
    """Slurm's word for it, as "RUNNING"."""
    restarts: int
    nodes: str
    reason: str
    """Why it waits, in Slurm's words."""
    script: str
    """Path of the batch script it was submitted with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last that accounting knows of a job."""

    state: str
    exit_code: str
    restarts: int
    nodes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition."""

    name: str
    is_default: bool
    limit_min: float | None
    """Longest time a job may take; None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node has."""

    name: str
    gpus: int
    cpus: int
    memory_mb: int


def ask(*command: str) -> str:
    """What a Slurm command prints; StoreError when it is not there, fails, or does not answer."""
    if shutil.which(command[0]) is None:
        raise StoreError(f"{command[0]} is not on the PATH; run this on a machine of the cluster")
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CLIENT_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise StoreError(
            f"{command[0]} gave no answer in {CLIENT_TIMEOUT_S:.0f} s; is slurmctld up? Try: scontrol ping"
        ) from None
    if done.returncode != 0:
        raise StoreError(f"{shlex.join(command)}: exit code {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout


def parse_minutes(text: str) -> float | None:
    """A Slurm time limit: "1-00:30:00" -> 1470.0, "30:00" -> 30.0, "infinite" -> None."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def parse_gpus(gres: str) -> int:
    """GPUs in a node's generic resources: "gpu:a100:6(S:0-1),gpu:l4:2,nvme:1" -> 8, "(null)" -> 0."""
    # The brackets name sockets, and may hold commas.
    found = re.findall(r"(?:^|,)gpu(?::[^,:]+)??:(\d+)", re.sub(r"\([^)]*\)", "", gres))
    return sum(map(int, found))


def partitions() -> dict[str, Partition]:
    """All partitions by name."""
    found = {}
    for line in ask("sinfo", "-h", "-o", "%R|%P|%l").splitlines():
        name, marked, limit = line.split("|")
        found[name] = Partition(name=name, is_default=marked.endswith("*"), limit_min=parse_minutes(limit))
    return found


def nodes_of(partition: str) -> list[Node]:
    """The nodes of a partition (or several, with commas between)."""
    found = {}
    for line in ask("sinfo", "-h", "-N", "-p", partition, "-o", "%N|%G|%c|%m").splitlines():
        name, gres, cpus, memory = line.split("|")
        found[name] = Node(
            name=name, gpus=parse_gpus(gres), cpus=int(cpus.rstrip("+")), memory_mb=int(memory.rstrip("+"))
        )
    return list(found.values())


def parse_queue(text: str) -> list[Queued]:
    """The columns of squeue."""
    found = []
    for line in text.splitlines():
        cells, start = [], 0
        for _, width in _QUEUE:
            cells.append(line[start : start + width].strip())
            start += width
        job, state, restarts, nodes, reason, script = cells
        found.append(Queued(job=job, state=state, restarts=int(restarts), nodes=nodes, reason=reason, script=script))
    return found


def queue() -> list[Queued]:
    """What this user has waiting, running or just ending."""
    states = "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING,STOPPED,SIGNALING,STAGE_OUT,RESIZING"
    states += ",REQUEUED,REQUEUE_HOLD,SPECIAL_EXIT"
    columns = ",".join(f"{name}:{width}" for name, width in _QUEUE)
    return parse_queue(ask("squeue", "-h", "-r", "-u", str(os.getuid()), "-t", states, "-O", columns))


def parse_history(text: str) -> dict[str, Ended]:
    """sacct's lines: one for each attempt of a job, the last one last."""
    found: dict[str, Ended] = {}
    for line in text.splitlines():
        job, state, exit_code, nodes = line.split("|")
        attempts = found[job].restarts + 1 if job in found else 0
        # "CANCELLED by 1000"
        found[job] = Ended(state=state.split(" ")[0], exit_code=exit_code, restarts=attempts, nodes=nodes)
    return found


def history(jobs: Iterable[str]) -> dict[str, Ended]:
    """What accounting knows of these jobs; {} where there is none."""
    names = sorted(set(jobs))
    if not names or shutil.which("sacct") is None:
        return {}
    try:
        text = ask("sacct", "-X", "-n", "-P", "-D", "-j", ",".join(names), "-o", "JobID,State,ExitCode,NodeList")
    except StoreError as error:
        logger.info("nothing is known of jobs that have ended: %s", error)
        return {}
    return parse_history(text)


def cancel(jobs: Sequence[str]) -> None:
    """End these jobs."""
    ask("scancel", *jobs)
