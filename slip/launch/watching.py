"""The verbs that look after what was launched: status, logs, cancel.

In: names of launches and their folder. Out: text on standard output. What jobs do is asked through `slip.launch.jobs`,
how far runs are through `slip.launch.progress`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.errors import ConfigError, InputError
from slip.goodput import duration
from slip.launch import local_jobs, slurm_client
from slip.launch.jobs import JobState, states_of, unrecorded
from slip.launch.progress import Progress, read_progress
from slip.launch.record import LOGS, Launch, launches, read_launch
from slip.launch.settings import DEFAULT_FOLDER

logger = logging.getLogger(__name__)

_POLL_S = 1.0
# The controller answers for everyone.
_POLLS_PER_QUESTION = 10

_HEADING = ("launch", "run", "job", "state", "restarts", "nodes", "step", "loss", "samples/s", "ETA", "why")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusConfig:
    """Show how launches are."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Launches. None: all in the folder."""
    folder: str = DEFAULT_FOLDER
    """Folder of the launches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsConfig:
    """Print the log of a run's rank 0, all attempts."""

    name: tyro.conf.Positional[str]
    """Launch."""
    run: int | None = None
    """Number of the run, as status shows it; needed where there are several."""
    follow: bool = False
    """Go on printing until the job has ended, or Ctrl-C."""
    folder: str = DEFAULT_FOLDER
    """Folder of the launches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelConfig:
    """End all jobs of a launch. The same launch command again goes on from the newest checkpoints."""

    name: tyro.conf.Positional[str]
    """Launch."""
    folder: str = DEFAULT_FOLDER
    """Folder of the launches."""


def _open(folder: str, name: str) -> tuple[Path, Launch]:
    path = Path(folder).expanduser().absolute() / name
    return path, read_launch(path)


def _row(name: str, number: int, job: JobState, progress: Progress | None) -> tuple[str, ...]:
    step = loss = rate = eta = "-"
    if progress is not None:
        step = f"{progress.step}/{'?' if progress.last_step is None else progress.last_step}"
        loss = "-" if progress.loss is None else f"{progress.loss:.4f}"
        rate = "-" if progress.images_per_s is None else f"{progress.images_per_s:,.0f}"
        eta = duration(progress.eta_s) if job.state == "RUNNING" else "-"
    restarts = "-" if job.restarts is None else str(job.restarts)
    return (name, str(number), job.job, job.state, restarts, job.nodes or "-", step, loss, rate, eta, job.why)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns aligned to the left, under their headings."""
    lines = [_HEADING, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADING))]
    cells = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in cells)


def status(config: StatusConfig) -> str:
    """What to print."""
    base = Path(config.folder).expanduser().absolute()
    folders = [base / name for name in config.names] or launches(base)
    if not folders:
        return f"no launches in {config.folder}\n"
    found = [(folder, read_launch(folder)) for folder in folders]
    rows = []
    for (folder, launch), states in zip(found, states_of(found), strict=True):
        for number, (run, job) in enumerate(zip(launch.runs, states, strict=True)):
            settings = folder / f"config-{number}.json"
            progress = read_progress(run.output, settings, Path(launch.working_folder))
            rows.append(_row(launch.name, number, job, progress))
    return table(rows)


def _pick_run(launch: Launch, number: int | None) -> int:
    count = len(launch.runs)
    if number is None and count > 1:
        numbered = ", ".join(f"{i} ({run.output})" for i, run in enumerate(launch.runs))
        raise ConfigError(f"{launch.name} has {count} runs; name one with --run: {numbered}")
    if number is not None and not 0 <= number < count:
        raise ConfigError(f"--run is {number}; {launch.name} has runs 0 to {count - 1}")
    return number or 0


def log_path(folder: Path, job: str) -> Path:
    """The log of a job's rank 0, which is also that of its batch script: submitit names it so."""
    return folder / LOGS / f"{job}_0_log.out"


def follow(path: Path, ended: Callable[[], bool], write: Callable[[str], object], pause: Callable[[], None]) -> None:
    """Write what a file holds and what is added to it, until the job has ended."""
    position = 0
    while True:
        # Asked first, so that nothing written before the end is missed.
        over = ended()
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                write(file.read().decode(errors="replace"))
                position = file.tell()
        if over:
            return
        pause()


def logs(config: LogsConfig, write: Callable[[str], object], pause: Callable[[], None]) -> None:
    """Write the logs of all submissions of a run, the last one's as it grows where that is wanted."""
    folder, launch = _open(config.folder, config.name)
    number = _pick_run(launch, config.run)
    paths = [log_path(folder, submission.jobs[number]) for submission in launch.submissions]
    questions = 0

    def state() -> JobState:
        return states_of([(folder, launch)])[0][number]

    def ended() -> bool:
        nonlocal questions
        questions += 1
        return questions % _POLLS_PER_QUESTION == 1 and not state().alive

    if not config.follow and not any(path.exists() for path in paths):
        job = state()
        raise InputError(f"{config.name}: run {number} has no log yet; job {job.job} is {job.state} {job.why}".rstrip())
    if config.follow and paths and not paths[-1].exists():
        job = state()
        logger.info("%s: run %d has no log yet; job %s is %s %s", launch.name, number, job.job, job.state, job.why)
    for path in paths[:-1]:
        follow(path, lambda: True, write, pause)
    if paths:
        follow(paths[-1], ended if config.follow else lambda: True, write, pause)


def cancel(config: CancelConfig) -> str:
    """Cancel; what to print."""
    folder, launch = _open(config.folder, config.name)
    (states,) = states_of([(folder, launch)])
    extra = unrecorded(folder, launch)
    alive = [(f"run {number}", job.job, job.state) for number, job in enumerate(states) if job.alive]
    alive += [("not in the record", job, "in the queue") for job in extra]
    if not alive:
        jobs = ", ".join(f"{job.job} {job.state}" for job in states)
        return f"{launch.name}: nothing to cancel ({jobs})\n"
    if launch.executor == "slurm":
        slurm_client.cancel([job for _, job, _ in alive])
    else:
        for _, job, _ in alive:
            local_jobs.cancel(job)
    return "".join(f"cancelled: {what}, job {job}, which was {state}\n" for what, job, state in alive)


def run_status(words: Sequence[str]) -> None:
    """`slip launch status`."""
    sys.stdout.write(status(tyro.cli(StatusConfig, args=list(words), prog="slip launch status")))


def run_logs(words: Sequence[str]) -> None:
    """`slip launch logs`."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    config = tyro.cli(LogsConfig, args=list(words), prog="slip launch logs", config=(tyro.conf.FlagCreatePairsOff,))
    logs(config, write, lambda: time.sleep(_POLL_S))


def run_cancel(words: Sequence[str]) -> None:
    """`slip launch cancel`."""
    sys.stdout.write(cancel(tyro.cli(CancelConfig, args=list(words), prog="slip launch cancel")))
