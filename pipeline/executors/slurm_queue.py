"""Slurm as the build sees it: submit an array, see what is in the queue, cancel. Every question has a time limit.

Tasks are told by their job name, made from the work folder's path, so that a build that is resumed finds what a
killed one left behind. Only what is in the queue is asked: finished jobs are known to accounting, which not every
cluster has, and a task that Slurm starts again after a lost node has ended for a moment.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import SlurmConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.login_environment import replaced_environment

log = logging.getLogger(__name__)

CLIENT_TIMEOUT_S = 60.0
"""Seconds for an answer of Slurm's controller."""
SUBMIT_ATTEMPTS = 4
SUBMIT_PAUSE_S = 15.0
_REPOSITORY = Path(__file__).resolve().parents[2]

_IN_QUEUE = "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING,STOPPED,SIGNALING,STAGE_OUT,RESIZING"
_IN_QUEUE += ",REQUEUED,REQUEUE_HOLD,SPECIAL_EXIT"
_MAY_PASS = re.compile(r"timed out|unable to contact|temporarily|connection|try again", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Task:
    """One task in the queue."""

    state: str
    """Slurm's word for it, as "RUNNING"."""
    reason: str
    """Why it waits, in Slurm's words."""

    @property
    def is_running(self) -> bool:
        """Whether it is at work, or just ending."""
        return self.state in {"RUNNING", "COMPLETING"}

    @property
    def is_stuck(self) -> bool:
        """Whether Slurm has put it back and holds it there, after a node failed to start it."""
        return self.state in {"REQUEUE_HOLD", "SPECIAL_EXIT"} or "requeued held" in self.reason


def _ask(*command: str) -> str:
    """What a Slurm command prints; StoreError when it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise StoreError(f"{command[0]} gave no answer in {CLIENT_TIMEOUT_S:.0f} s; is slurmctld up?") from None
    if done.returncode != 0:
        raise StoreError(f"{shlex.join(command)}: exit code {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout


class Queue:
    """The tasks of one kind of one build."""

    def __init__(self, kind: str, work: Path, settings: SlurmConfig) -> None:
        self.name = f"yfcc15m-{kind}-{hashlib.sha256(str(work).encode()).hexdigest()[:8]}"
        self._kind, self._folder, self._settings = kind, work / "slurm", settings
        self._arrays: set[str] = set()

    def submit(self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> dict[str, Path]:
        """Submit an array with a task per call; the log file of each task, in order, by the task's id.

        StoreError with sbatch's words when it is refused.
        """
        for attempt in range(1, SUBMIT_ATTEMPTS + 1):
            try:
                return self._submit(function, calls)
            except StoreError as error:
                if attempt == SUBMIT_ATTEMPTS or not _MAY_PASS.search(str(error)):
                    raise
                log.warning("%s; trying again in %.0f s", error, SUBMIT_PAUSE_S)
            time.sleep(SUBMIT_PAUSE_S)
            # Slurm may have taken it and only the answer got lost: two tasks would then make the same units.
            self.cancel([task for task in self.tasks() if task.partition("_")[0] not in self._arrays])
        raise AssertionError

    def _submit(self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> dict[str, Path]:
        import submitit
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError

        folder = self._new_folder()
        settings = self._settings
        paths = [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        with replaced_environment():
            executor = submitit.SlurmExecutor(folder=folder)
            executor.update_parameters(
                job_name=self.name,
                nodes=1,
                ntasks_per_node=1,
                cpus_per_task=settings.cpus_per_task,
                mem=f"{settings.mem_gb}GB",
                time=settings.time_min,
                partition=settings.partition,
                account=settings.account,
                array_parallelism=settings.max_tasks,
                stderr_to_stdout=True,
                # A task is one process; a step of its own would get one core of Slurm 22.05 and later.
                use_srun=False,
                # The package may not be installed, and the folder sbatch was called from may hold others of its names.
                setup=[f"export PYTHONPATH={shlex.quote(os.pathsep.join(paths))} PYTHONSAFEPATH=1"],
            )
            try:
                jobs = executor.map_array(function, *zip(*calls, strict=True))
            except (FailedSubmissionError, UncompletedJobError) as error:
                raise StoreError(f"sbatch did not take the array of {len(calls)} tasks: {error}") from None
        self._arrays.update(job.job_id.partition("_")[0] for job in jobs)
        return {job.job_id: Path(job.paths.stdout) for job in jobs}

    def _new_folder(self) -> Path:
        """A folder of this submission's own: where a cluster counts jobs from 1 again, tasks would find old files."""
        number = sum(1 for _ in self._folder.glob("*")) if self._folder.exists() else 0
        while True:
            folder = self._folder / f"{number:04d}-{self._kind}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return folder

    def tasks(self) -> dict[str, Task]:
        """What is waiting or running, by id (as "1234_5", or "1234" for a job that is no array)."""
        of_mine = ("-u", str(os.getuid()), "-n", self.name, "-t", _IN_QUEUE)
        lines = _ask("squeue", "-h", "-r", *of_mine, "-o", "%F|%K|%T|%r").splitlines()
        found = {}
        for job, index, state, reason in (line.split("|", 3) for line in lines):
            found[job if index == "N/A" else f"{job}_{index}"] = Task(state, reason)
        return found

    def cancel(self, tasks: Sequence[str] | None = None) -> None:
        """End these tasks, or all; a warning when Slurm does not answer."""
        try:
            for first in range(0, len(tasks or []), 500):
                _ask("scancel", *(tasks or [])[first : first + 500])
            if tasks is None:
                _ask("scancel", "-u", str(os.getuid()), "-n", self.name)
        except StoreError as error:
            log.warning("tasks could not be cancelled: %s; scancel -n %s", error, self.name)


def check_slurm() -> None:
    """ConfigError where jobs cannot be submitted."""
    missing = [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"--executor slurm: {', '.join(missing)} not found; run it on a machine of the cluster, or --executor here"
        )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError("--executor slurm needs a package: pip install submitit") from None


def longest_array() -> int:
    """Tasks the cluster allows in one array."""
    text = _ask("scontrol", "show", "config")
    # Indices are below MaxArraySize; 0 means no arrays at all.
    limits = [int(limit) for limit in re.findall(r"(?:MaxArraySize\s*|max_array_tasks)=\s*(\d+)", text)]
    return max(1, min(limits, default=1))
