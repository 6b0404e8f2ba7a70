"""Launches on this machine: ranks in the background through submitit's local executor, told by their process id.

In: tasks. Out: process ids of what watches over each run's ranks. It forwards SIGTERM to them, at which they write a
checkpoint and stop. Nobody starts a run again here: the same command does.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.login_environment import environment_of_login, replaced_environment
from slip.launch.batch import Place, interpreter
from slip.launch.settings import LaunchConfig
from slip.launch.site_file import Site
from slip.launch.task import TrainTask


@contextmanager
def _apart_from_the_terminal() -> Iterator[None]:
    """Processes started inside have no terminal or pipe of ours: whoever waits for its end would wait for theirs."""
    kept = [os.dup(number) for number in range(3)]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for number in range(3):
            os.dup2(null, number)
        yield
    finally:
        for number, file in enumerate(kept):
            os.dup2(file, number)
            os.close(file)
        os.close(null)


def submit(config: LaunchConfig, site: Site, place: Place, tasks: Sequence[TrainTask]) -> tuple[str, ...]:
    """Start all runs; the process id of each."""
    import submitit

    paths = [str(place.code), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = environment_of_login() | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    with replaced_environment(environment), _apart_from_the_terminal():
        executor = submitit.LocalExecutor(folder=place.logs, python=shlex.join(interpreter(site)))
        executor.update_parameters(
            nodes=1,
            tasks_per_node=config.ranks_per_node,
            gpus_per_node=config.gpus_per_node,
            timeout_min=config.time_min,
            signal_delay_s=config.signal_s,
            stderr_to_stdout=True,
        )
        return tuple(str(executor.submit(task).job_id) for task in tasks)


def is_running(process: str, logs: Path) -> bool:
    """Whether the process is still the one that watches over ranks logging there."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        # A process that has ended and was not waited for has no words.
        return b"submitit.local._local" in words and os.fsencode(logs) in words
    except OSError:
        return False


def cancel(process: str) -> None:
    """Tell a run's ranks to write a checkpoint and stop."""
    os.kill(int(process), signal.SIGTERM)
