"""Get the pictures of selected rows from the sources that may have them, unit by unit.

In come units of the selection, out come `fetched/NNNNN.tar` and `fetched/NNNNN.parquet` of each (see `fetched`),
in which every row has its outcome. A group of units is put to the first source, what is missing then to the next,
and so on. Downloads are img2dataset's, in a child process that judges what comes and writes to a temporary folder; as
soon as it has finished a unit, a worker process compares every byte with its digest and adds it, while the download
of the others goes on. What is left is never believed unchecked: when the disk is full, img2dataset returns normally.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.errors import ShardError, StoreError
from pipeline.fetch.asking import (
    DOWNLOADED,
    Step,
    Task,
    questions,
    read_pictures,
    sources_of,
    take_download,
    take_nothing,
)
from pipeline.fetch.fetch_child import follow_parent
from pipeline.fetch.fetched import Job, fetched_tar, is_done, read_outcomes, sweep, temp_prefix
from pipeline.fetch.img2dataset_call import Img2datasetCall, check_installed
from pipeline.progress import Progress
from pipeline.records import unit_name
from pipeline.selection.selection import part_path

__all__ = ["fetch_again", "fetch_units", "fetched_tar", "read_outcomes"]

log = logging.getLogger(__name__)

UNITS_PER_PROCESS = 4
"""Units in one img2dataset call, per download process: few enough that local disk stays bounded, enough that
starting and waiting for the last unit weigh little."""
ROWS_PER_CALL = 20_000
"""Rows for which a call is worth its start, when units are small: more units then go into it."""
ATTEMPTS = 3
"""Calls of img2dataset for a unit whose files do not verify, before giving up."""
STALL_S = 600.0
"""A call in which nothing has moved for this long, not even an answer to a request, is ended: when one of its
processes is killed, img2dataset waits for it for ever."""
_POLL_S = 0.25


def fetch_units(
    config: BuildConfig, work: Path, units: Sequence[int], *, proxy: str | None = None
) -> Generator[int, None, None]:
    """Yield each unit once its outcomes are there: finished ones at once, the others as they arrive.

    `proxy` is the URL of an HTTP proxy for all downloads. Close the iterator to end the download early.
    """
    yield from _fetch(config, work, [Job(unit=unit) for unit in units], proxy)


def fetch_again(
    config: BuildConfig, work: Path, wanted: Mapping[int, Sequence[int]], *, proxy: str | None = None
) -> Generator[int, None, None]:
    """Ask once more for the rows at these positions (ascending) of these units; yields each unit once they are there.

    The answers go to `again_tar` and `again_path`; what was fetched before is left alone.
    """
    yield from _fetch(config, work, [Job(unit=unit, positions=tuple(at)) for unit, at in wanted.items()], proxy)


def _fetch(config: BuildConfig, work: Path, jobs: Sequence[Job], proxy: str | None) -> Generator[int, None, None]:
    (work / "fetched").mkdir(parents=True, exist_ok=True)
    sweep(work)
    waiting = [job for job in jobs if not is_done(work, job)]
    yield from sorted({job.unit for job in jobs} - {job.unit for job in waiting})
    if not waiting:
        return
    if not DOWNLOADED.isdisjoint(sources_of(config)):
        check_installed(config)
    group_size = max(UNITS_PER_PROCESS * config.processes, ROWS_PER_CALL // config.samples_per_shard)
    with _Run(config, work, sum(_num_rows(work, job) for job in waiting), proxy) as run:
        for first in range(0, len(waiting), group_size):
            yield from _fetch_group(run, waiting[first : first + group_size])


def _num_rows(work: Path, job: Job) -> int:
    return int(pq.read_metadata(part_path(work, job.unit)).num_rows) if job.positions is None else len(job.positions)


def _start_checker(parent_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the build's to handle; it ends this process
    follow_parent(parent_pid)


class _Run:
    """What one call of `fetch_units` or `fetch_again` holds open: worker processes and the progress display."""

    def __init__(self, config: BuildConfig, work: Path, num_rows: int, proxy: str | None) -> None:
        self.config = config
        self.work = work
        self.proxy = proxy
        self.num_checkers = max(1, min(config.processes, os.cpu_count() or 1))
        # Spawned, not forked: the build has threads (proxy of the sample, uploads), which a fork would not survive.
        self.pool = ProcessPoolExecutor(
            self.num_checkers, mp_context=get_context("spawn"), initializer=_start_checker, initargs=(os.getpid(),)
        )
        self.progress = Progress("fetch", total=num_rows, unit="rows")
        self.num_done = 0
        self.num_bytes_done = 0
        self.num_shown = 0

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for what is still being checked
            for process in list((self.pool._processes or {}).values()):
                process.terminate()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.progress.close()

    def show(self, num_more: int = 0, num_more_bytes: int = 0) -> None:
        """Show what finished units and, besides, unfinished ones have brought."""
        rate = (self.num_bytes_done + num_more_bytes) / max(self.progress.elapsed_s, 1e-9)
        # Between download and check a unit is in neither number; the display does not go back for that.
        self.num_shown = max(self.num_shown, self.num_done + num_more)
        self.progress.advance_to(self.num_shown, note=f"{rate / 1e6:.1f} MB/s")

    def submit(self, function: Callable[..., Step], *arguments: Any) -> Future[Step]:
        """Have a worker process do this."""
        return self.pool.submit(function, *arguments)

    def result(self, future: Future[Step]) -> Step:
        """What a worker has done; ShardError when a unit's files did not verify."""
        try:
            step = future.result()
        except BrokenProcessPool:
            raise StoreError(
                "a process that checks pictures was killed, probably for lack of memory; "
                "run again with a smaller --processes or --max-pixels"
            ) from None
        if step.is_finished:
            self.num_done += step.num_rows
            self.num_bytes_done += step.num_bytes
        return step


def _fetch_group(run: _Run, jobs: Sequence[Job]) -> Iterator[int]:
    """Put the jobs to one source after the other; yields the units that are finished."""
    left = {job.unit: job for job in jobs}
    sources = sources_of(run.config)
    with tempfile.TemporaryDirectory(
        prefix=temp_prefix(), dir=run.work / "fetched", ignore_cleanup_errors=True
    ) as name:
        for source in sources:
            tasks = {
                unit: Task(
                    config=run.config,
                    work=run.work,
                    folder=Path(name),
                    job=job,
                    source=source,
                    is_last=source == sources[-1],
                )
                for unit, job in sorted(left.items())
            }
            if source != sources[0] and tasks:
                log.info("asking source %s for what %d units still lack", source, len(tasks))
            for step in _download(run, tasks, Path(name)) if source in DOWNLOADED else _read(run, tasks):
                if step.is_finished:
                    del left[step.unit]
                    run.show()
                    yield step.unit
    assert not left, f"units {sorted(left)} were put to every source and are not finished"


def _read(run: _Run, tasks: Mapping[int, Task]) -> Iterator[Step]:
    """Archives or local files; only a few units are in the making at a time, so that disk use follows the consumer."""
    waiting = list(tasks.values())[::-1]
    running: set[Future[Step]] = set()
    while waiting or running:
        while waiting and len(running) < 2 * run.num_checkers:
            running.add(run.submit(read_pictures, waiting.pop()))
        done, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            yield run.result(future)


def _download(run: _Run, tasks: Mapping[int, Task], folder: Path) -> Iterator[Step]:
    """One img2dataset call for the tasks, repeated for those whose files did not verify."""
    asked = {unit: questions(task) for unit, task in tasks.items()}
    for unit in [unit for unit, rows in asked.items() if rows.num_rows == 0]:
        del asked[unit]
        yield run.result(run.submit(take_nothing, tasks[unit]))
    log_path = run.work / "fetched" / "img2dataset.log"
    problems: list[str] = []
    for attempt in range(1, ATTEMPTS + 1):
        if not asked:
            return
        problems.clear()
        with (
            tempfile.TemporaryDirectory(prefix="call-", dir=folder, ignore_cleanup_errors=True) as name,
            Img2datasetCall(run.config, asked, folder=Path(name), log_path=log_path, proxy=run.proxy) as call,
        ):
            for step in _finished_units(run, call, tasks, problems):
                asked.pop(step.unit, None)
                yield step
                if not asked:  # img2dataset takes seconds to end, for nothing that is needed
                    return
            if asked and not problems:
                problems.append(f"img2dataset left nothing (exit code {call.exit_code})")
        if not asked:
            return
        _check_disk(run.work)
        if attempt < ATTEMPTS:
            log.warning("%d units must be downloaded again (attempt %d): %s", len(asked), attempt + 1, problems[0])
    names = ", ".join(unit_name(unit) for unit in sorted(asked)[:5])
    raise StoreError(f"units {names} could not be fetched in {ATTEMPTS} attempts: {problems[0]}; see {log_path}")


def _check_disk(work: Path) -> None:
    free_bytes = shutil.disk_usage(work).free
    if free_bytes < 16 * 2**20:
        raise StoreError(f"{work}: the disk is full ({free_bytes} bytes left); make room, then run again")


def _finished_units(run: _Run, call: Img2datasetCall, tasks: Mapping[int, Task], problems: list[str]) -> Iterator[Step]:
    """Yield what becomes of units that img2dataset downloads and that verify, until it ends; note others' problems."""
    running: set[Future[Step]] = set()
    moved_at, last_seen = time.perf_counter(), (-1, -1, 0.0)
    while True:
        ended = call.exit_code is not None  # asked before looking for files, so none is missed
        for shard in call.finished_shards():
            running.add(run.submit(take_download, tasks, call.output, shard))
        done = {future for future in running if future.done()}
        running -= done
        for future in done:
            try:
                step = run.result(future)
            except ShardError as error:
                problems.append(str(error))
                continue
            yield step
            moved_at = time.perf_counter()  # the consumer may have taken long
        num_pictures, num_bytes = call.growing()
        run.show(num_pictures, num_bytes)
        seen = (len(call.submitted), num_bytes, call.heartbeat)
        if seen != last_seen or running:
            moved_at, last_seen = time.perf_counter(), seen
        if ended and not running:
            return
        if time.perf_counter() - moved_at > STALL_S:
            problems.append(f"nothing moved for {STALL_S:.0f} s")
            return
        if running:
            wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        else:
            time.sleep(_POLL_S)
