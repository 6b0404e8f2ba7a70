"""Who fetches and seals: processes of this machine, or tasks of a Slurm cluster; the bytes are the same.

In come units, out they come one by one as they are done. Which units there are, and in which groups they are made,
is the driver's part; what Slurm is asked to do is `slurm_arrays`'.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from pipeline.config import BuildConfig
from pipeline.executors.slurm_arrays import SlurmArrays
from pipeline.executors.slurm_queue import check_slurm, longest_array
from pipeline.executors.worker_pool import map_in_order
from pipeline.fetch.fetch import ROWS_PER_CALL, UNITS_PER_PROCESS, fetch_units
from pipeline.fetch.img2dataset_call import check_installed
from pipeline.seal.seal import seal_unit


class Executor(Protocol):
    """Fetches and seals units."""

    group_size: int
    """Units fetched before duplicates are marked and the group is sealed."""

    def fetch(self, units: Sequence[int]) -> Generator[int]:
        """Yield each unit once its outcomes are there, in any order; an exception ends the build."""

    def seal(self, units: Sequence[int]) -> Generator[int]:
        """Yield each unit once it is sealed. May run in another thread than `fetch`."""

    def close(self) -> None:
        """End what is under way, in other threads too; what is done stays done."""


def check_executor(config: BuildConfig) -> None:
    """ConfigError or InputError, before rows are selected for an hour, when nobody could fetch them then."""
    if config.executor == "slurm":
        check_slurm()
        longest_array()
    if config.dataset != "local":
        check_installed(config)


def _seal_one(config: BuildConfig, work: Path, unit: int) -> int:
    seal_unit(config, work, unit)
    return unit


class _Here:
    """Processes of this machine; img2dataset's own distributors too, which only fetching knows of."""

    def __init__(self, config: BuildConfig, work: Path, proxy: str | None) -> None:
        self._config, self._work, self._proxy = config, work, proxy
        self._closed = False
        self.group_size = max(UNITS_PER_PROCESS * config.processes, ROWS_PER_CALL // config.samples_per_shard)

    def fetch(self, units: Sequence[int]) -> Generator[int]:
        """See `Executor`."""
        yield from fetch_units(self._config, self._work, units, proxy=self._proxy)

    def seal(self, units: Sequence[int]) -> Generator[int]:
        """See `Executor`."""
        for unit in map_in_order(partial(_seal_one, self._config, self._work), units, processes=self._config.processes):
            yield unit
            if self._closed:
                return

    def close(self) -> None:
        """See `Executor`; what is being sealed is finished first."""
        self._closed = True


@contextmanager
def open_executor(config: BuildConfig, work: Path, *, proxy: str | None) -> Iterator[Executor]:
    """The executor the settings ask for, closed at the end. ConfigError where it cannot be had."""
    executor = SlurmArrays(config, work, proxy) if config.executor == "slurm" else _Here(config, work, proxy)
    try:
        yield executor
    finally:
        executor.close()
