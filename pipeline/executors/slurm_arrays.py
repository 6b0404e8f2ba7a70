"""Fetching and sealing as tasks of Slurm arrays: submitted, watched, and submitted again for what is missing.

In come units, out they come as their files appear in the work folder, which all nodes share. A unit is done when
its files are there, whatever Slurm says of the task; what a task has not made when it has left the queue (it failed,
was killed, ran out of time, lost its node) goes into another one. How Slurm is asked is `slurm_queue`'s part, what a
task does `slurm_tasks`'.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.errors import StoreError
from pipeline.executors.slurm_queue import Queue, check_slurm, longest_array
from pipeline.executors.slurm_tasks import Kind, run
from pipeline.progress import Progress
from pipeline.records import unit_name
from pipeline.selection.selection import part_path

log = logging.getLogger(__name__)

SUBMISSIONS = 4
"""Tasks a unit may be given to, one after the other, before the build stops."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks into the work folder."""
ASK_EVERY_S = 5.0
"""Seconds between two questions to Slurm, which others use too."""
GONE_S = 5.0
"""Seconds a task must be out of the queue before it counts as ended: after a lost node Slurm itself starts it again,
and files written on another machine may take a moment to be seen."""
CANCEL_WAIT_S = 120.0
_TAIL_LINES = 6


def _done_units(kind: Kind, work: Path, units: Iterable[int]) -> set[int]:
    """Which of the units are done, from one listing per folder: asking for single files, NFS may answer from memory."""
    fetched = set(os.listdir(work / "fetched"))
    if kind == "fetch":
        return {unit for unit in units if {f"{unit_name(unit)}.tar", f"{unit_name(unit)}.parquet"} <= fetched}
    sealed = set(os.listdir(work / "sealed"))
    # The entry is written, and the fetched tar removed, in this order; an entry beside a tar is an older one.
    return {u for u in units if f"{unit_name(u)}.json" in sealed and f"{unit_name(u)}.tar" not in fetched}


def _tail(log_path: Path) -> str:
    """The last lines of a task's log, on one line."""
    try:
        lines = log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log; is the work folder on a file system that all nodes share?"
    return " | ".join(line.strip() for line in lines[-_TAIL_LINES:])


@dataclass(slots=True)
class _Task:
    """A submitted task and its units."""

    units: Sequence[int]
    log_path: Path
    gone_at: float | None = None
    """When it was first not in the queue."""


class _Group:
    """Units of one kind on their way through Slurm."""

    def __init__(
        self, kind: Kind, config: BuildConfig, work: Path, proxy: str | None, queue: Queue, units: Sequence[int]
    ) -> None:
        self._kind, self._config, self._work, self._proxy, self._queue = kind, config, work, proxy, queue
        self.left = set(units)
        self.note = ""
        self._tasks: dict[str, _Task] = {}
        self._submissions: Counter[int] = Counter()
        self._asked_at = -ASK_EVERY_S

    def take_done(self) -> list[int]:
        """Units that have become done since the last question."""
        done = sorted(_done_units(self._kind, self._work, self.left))
        self.left.difference_update(done)
        return done

    def submit(self) -> None:
        """Give all units that are left, and that no task has, to tasks."""
        taken = {unit for task in self._tasks.values() for unit in task.units}
        units = sorted(self.left - taken)
        size = self._config.slurm.units_per_task
        parts = [units[first : first + size] for first in range(0, len(units), size)]
        if not parts:
            return
        calls = [(self._kind, self._config, self._work, part, self._proxy) for part in parts]
        logs = self._queue.submit(run, calls)
        for part, (task, log_path) in zip(parts, logs.items(), strict=True):
            self._tasks[task] = _Task(part, log_path)
        self._submissions.update(units)
        log.info("%s: %d units in %d tasks, job %s", self._kind, len(units), len(parts), next(iter(logs)).split("_")[0])

    def look(self) -> None:
        """Ask Slurm about the tasks; units that those which have ended left undone are free to be submitted again."""
        now = time.monotonic()
        if now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        try:
            queued = self._queue.tasks()
        except StoreError as error:
            log.warning("%s; asking again", error)
            return
        ended = []
        for name, task in self._tasks.items():
            found = queued.get(name)
            if found is not None and not found.is_stuck:
                task.gone_at = None
            elif task.gone_at is None:
                task.gone_at = now
            elif now - task.gone_at >= GONE_S:
                ended.append(name)
        mine = [queued[name] for name in self._tasks if name in queued]
        running = sum(task.is_running for task in mine)
        reasons = Counter(task.reason for task in mine if not task.is_running)
        waiting = f", {reasons.total()} waiting ({reasons.most_common(1)[0][0]})" if reasons else ""
        self.note = f"{running} tasks running{waiting}"
        if ended:
            self._give_up(ended)

    def _give_up(self, names: list[str]) -> None:
        """Take back what is left of these tasks' units; StoreError when they were tried often enough."""
        undone = {unit for name in names for unit in self._tasks[name].units} & self.left
        undone -= _done_units(self._kind, self._work, undone)
        for name in names:
            task = self._tasks.pop(name)
            missing = sorted(undone.intersection(task.units))
            if not missing:
                continue
            what = f"{self._kind} task {name} ended without unit {', '.join(map(unit_name, missing))}"
            if any(self._submissions[unit] >= SUBMISSIONS for unit in missing):
                raise StoreError(
                    f"{what}, as {SUBMISSIONS - 1} tasks before it; log {task.log_path}: {_tail(task.log_path)}"
                )
            log.warning("%s; submitting it again (log %s: %s)", what, task.log_path, _tail(task.log_path))
        self._queue.cancel(names)  # one that Slurm starts again after all would write the same files at the same time

    def cancel(self) -> None:
        """End the tasks that have not made all their units."""
        names = [name for name, task in self._tasks.items() if self.left.intersection(task.units)]
        if names:
            self._queue.cancel(names)


class SlurmArrays:
    """The executor; see `executors.Executor`."""

    def __init__(self, config: BuildConfig, work: Path, proxy: str | None) -> None:
        check_slurm()
        self._config, self._work, self._proxy = config, work, proxy
        self._closed = threading.Event()
        self._queues: dict[Kind, Queue] = {
            "fetch": Queue("fetch", work, config.slurm),
            "seal": Queue("seal", work, config.slurm),
        }
        self.group_size = config.slurm.units_per_task * min(config.slurm.max_tasks, longest_array())
        for folder in ("fetched", "sealed"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        for queue in self._queues.values():
            self._end_earlier(queue)

    def _end_earlier(self, queue: Queue) -> None:
        """Cancel what a build that was killed left in the queue, and wait until it is gone."""
        left = queue.tasks()
        if not left:
            return
        log.warning("cancelling %d tasks of an earlier run that are still in Slurm's queue", len(left))
        queue.cancel()
        deadline = time.monotonic() + CANCEL_WAIT_S
        while queue.tasks():
            if time.monotonic() > deadline:
                raise StoreError(
                    f"tasks of an earlier run do not end: squeue -n {queue.name}; run again when they have"
                )
            time.sleep(LOOK_EVERY_S)

    def fetch(self, units: Sequence[int]) -> Generator[int]:
        """See `Executor`."""
        return self._make("fetch", units)

    def seal(self, units: Sequence[int]) -> Generator[int]:
        """See `Executor`."""
        return self._make("seal", units)

    def _make(self, kind: Kind, units: Sequence[int]) -> Generator[int]:
        for first in range(0, len(units), self.group_size):
            yield from self._make_group(kind, units[first : first + self.group_size])

    def _make_group(self, kind: Kind, units: Sequence[int]) -> Generator[int]:
        group = _Group(kind, self._config, self._work, self._proxy, self._queues[kind], units)
        rows = {unit: pq.read_metadata(part_path(self._work, unit)).num_rows for unit in units}
        num_done = 0
        with ExitStack() as stack:
            stack.callback(group.cancel)
            # Sealing goes on beside the next group's fetching, whose progress is the one to show.
            progress = (
                stack.enter_context(Progress(kind, total=sum(rows.values()), unit="rows")) if kind == "fetch" else None
            )
            while True:
                for unit in group.take_done():
                    num_done += rows[unit]
                    yield unit
                if not group.left:
                    return
                group.submit()
                group.look()
                if progress is not None:
                    done = f"{len(units) - len(group.left)} of {len(units)} units"
                    progress.advance_to(num_done, note=f"{done}, {group.note}")
                if self._closed.wait(LOOK_EVERY_S):
                    return

    def close(self) -> None:
        """See `Executor`."""
        self._closed.set()
        for queue in self._queues.values():
            queue.cancel()
