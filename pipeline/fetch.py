"""Download the pictures of selected rows with img2dataset, or read local ones, unit by unit.

In come units of the selection, out come `fetched/NNNNN.tar` and `fetched/NNNNN.parquet` of each (see `fetched`),
in which every row has its outcome. img2dataset downloads a group of units in a child process into a
temporary folder; as soon as it has finished a unit, worker processes check every byte of it, while the
download of the others goes on. What img2dataset leaves is never believed unchecked: when its disk is full, for
example, it returns normally.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.errors import InputError, ShardError, StoreError
from pipeline.fetch_child import follow_parent
from pipeline.fetched import (
    PictureLimits,
    fetched_tar,
    finish_download,
    finish_local,
    is_fetched,
    outcomes_path,
    read_outcomes,
)
from pipeline.img2dataset_call import Img2datasetCall
from pipeline.progress import Progress
from pipeline.records import unit_name
from pipeline.selection import part_path

__all__ = ["fetch_units", "fetched_tar", "read_outcomes"]

log = logging.getLogger(__name__)

UNITS_PER_PROCESS = 4
"""Units in one img2dataset call, per download process: few enough that local disk stays bounded, enough that
starting and waiting for the last unit weigh little."""
ROWS_PER_CALL = 20_000
"""Rows for which a call is worth its start, when units are small: more units then go into it."""
ATTEMPTS = 3
"""Calls of img2dataset for a unit whose files do not verify, before giving up."""
STALL_S = 600.0
"""A call in which nothing has moved for this long is ended: a time-out there means seconds without a byte, so a
server that sends a byte now and then would hold it for ever."""
_POLL_S = 0.25
_TEMP_PREFIX = "tmp-"


def fetch_units(
    config: BuildConfig, work: Path, units: Sequence[int], *, proxy: str | None = None
) -> Generator[int, None, None]:
    """Yield each unit once its outcomes are there: finished ones at once, the others as they arrive.

    `proxy` is the URL of an HTTP proxy for all downloads. Close the iterator to end the download early.
    """
    folder = work / "fetched"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{_TEMP_PREFIX}*"):  # of a build that was killed
        shutil.rmtree(stale, ignore_errors=True)
    for stale in folder.glob("*.part"):
        stale.unlink(missing_ok=True)
    waiting = [unit for unit in units if not is_fetched(work, unit)]
    yield from sorted(set(units) - set(waiting))
    if not waiting:
        return
    if config.source == "flickr" and importlib.util.find_spec("img2dataset") is None:
        raise InputError("img2dataset is not installed, and downloading needs it: pip install '.[build]'")
    num_rows = sum(pq.read_metadata(part_path(work, unit)).num_rows for unit in waiting)
    with _Run(config, work, num_rows, proxy) as run:
        if config.source == "local":
            yield from _read_group(run, waiting)
            return
        group_size = max(UNITS_PER_PROCESS * config.processes, ROWS_PER_CALL // config.samples_per_shard)
        for first in range(0, len(waiting), group_size):
            yield from _download_group(run, waiting[first : first + group_size])


def _start_checker(parent_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the build's to handle; it ends this process
    follow_parent(parent_pid)


class _Run:
    """What one call of `fetch_units` holds open: worker processes and the progress display."""

    def __init__(self, config: BuildConfig, work: Path, num_rows: int, proxy: str | None) -> None:
        self.config = config
        self.work = work
        self.proxy = proxy
        self.limits = PictureLimits(
            min_side=config.min_side, max_pixels=config.max_pixels, from_flickr=config.source == "flickr"
        )
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

    def result(self, future: Future[int]) -> int:
        """The unit a worker has finished; ShardError when its files did not verify."""
        try:
            unit = future.result()
        except BrokenProcessPool:
            raise StoreError(
                "a process that checks pictures was killed, probably for lack of memory; "
                "run again with a smaller --processes or --max-pixels"
            ) from None
        self.num_done += pq.read_metadata(outcomes_path(self.work, unit)).num_rows
        self.num_bytes_done += fetched_tar(self.work, unit).stat().st_size
        return unit


def _read_group(run: _Run, units: Sequence[int]) -> Iterator[int]:
    """Units of `--source local`; only a few are in the making at a time, so that disk use follows the consumer."""
    left = list(reversed(units))
    running: set[Future[int]] = set()
    while left or running:
        while left and len(running) < 2 * run.num_checkers:
            running.add(run.pool.submit(finish_local, run.work, left.pop(), run.limits))
        done, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            unit = run.result(future)
            run.show()
            yield unit


def _download_group(run: _Run, units: Sequence[int]) -> Iterator[int]:
    """One img2dataset call over the units, repeated for those whose files did not verify."""
    left = set(units)
    log_path = run.work / "fetched" / "img2dataset.log"
    problems: list[str] = []
    for attempt in range(1, ATTEMPTS + 1):
        problems.clear()
        with tempfile.TemporaryDirectory(
            prefix=_TEMP_PREFIX, dir=run.work / "fetched", ignore_cleanup_errors=True
        ) as name:
            with Img2datasetCall(
                run.config, run.work, sorted(left), folder=Path(name), log_path=log_path, proxy=run.proxy
            ) as call:
                for unit in _finished_units(run, call, problems):
                    left.discard(unit)
                    yield unit
            if left and not problems:
                problems.append(f"img2dataset left nothing (exit code {call.exit_code})")
        if not left:
            return
        _check_disk(run.work)
        if attempt < ATTEMPTS:
            log.warning("%d units must be downloaded again (attempt %d): %s", len(left), attempt + 1, problems[0])
    names = ", ".join(unit_name(unit) for unit in sorted(left)[:5])
    raise StoreError(f"units {names} could not be fetched in {ATTEMPTS} attempts: {problems[0]}; see {log_path}")


def _check_disk(work: Path) -> None:
    free_bytes = shutil.disk_usage(work).free
    if free_bytes < 16 * 2**20:
        raise StoreError(f"{work}: the disk is full ({free_bytes} bytes left); make room, then run again")


def _finished_units(run: _Run, call: Img2datasetCall, problems: list[str]) -> Iterator[int]:
    """Yield the units that img2dataset downloads and that verify, until it ends; note the others' problems."""
    running: set[Future[int]] = set()
    moved_at, last_seen = time.perf_counter(), (-1, -1)
    while True:
        ended = call.exit_code is not None  # asked before looking for files, so none is missed
        for shard in call.finished_shards():
            running.add(run.pool.submit(finish_download, run.work, call.output, shard, run.limits))
        done = {future for future in running if future.done()}
        running -= done
        for future in done:
            try:
                unit = run.result(future)
            except ShardError as error:
                problems.append(str(error))
                continue
            yield unit
            moved_at = time.perf_counter()  # the consumer may have taken long
        num_pictures, num_bytes = call.growing()
        run.show(num_pictures, num_bytes)
        seen = (len(call.submitted), num_bytes)
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
