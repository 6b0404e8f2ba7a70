"""In which state the jobs of launches are: asked of Slurm, or of this machine for local ones.

In: launches as they were recorded. Out: a state for every run, and jobs of a launch that its record does not know,
because the process that submitted them was killed before it could write.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import store
from slip.launch import local_jobs
from slip.launch.record import LOGS, Launch, launches, read_launch
from slip.launch.slurm_client import Ended, Queued, history, queue


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """How it is with the job of a run."""

    job: str
    state: str
    """Slurm's word; for what Slurm does not know ENDED, and NOT SUBMITTED."""
    alive: bool
    """Whether it runs, or will."""
    restarts: int | None = None
    nodes: str = ""
    why: str = ""
    """Why it waits, or how it ended."""


def _of_slurm(job: str, waiting: Mapping[str, Queued], ended: Mapping[str, Ended]) -> JobState:
    if job in waiting:
        found = waiting[job]
        return JobState(
            job=job,
            state=found.state,
            alive=True,
            restarts=found.restarts,
            nodes=found.nodes,
            why="" if found.reason == "None" else found.reason,
        )
    if job in ended:
        last = ended[job]
        why = "" if last.exit_code == "0:0" else f"exit code {last.exit_code}"
        return JobState(job=job, state=last.state, alive=False, restarts=last.restarts, nodes=last.nodes, why=why)
    return JobState(job=job, state="ENDED", alive=False, why="how is not known without accounting; its log may say")


def _of_machine(job: str, folder: Path, launch: Launch) -> JobState:
    host = launch.submissions[-1].host
    if host != socket.gethostname():
        return JobState(job=job, state="UNKNOWN", alive=False, nodes=host, why=f"ask on {host}")
    if local_jobs.is_running(job, folder / LOGS):
        return JobState(job=job, state="RUNNING", alive=True, nodes=host)
    return JobState(job=job, state="ENDED", alive=False, nodes=host, why="how: see its log")


def states_of(found: Sequence[tuple[Path, Launch]]) -> list[list[JobState]]:
    """The states of all runs of these launches (folder and record); Slurm is asked once for all of them."""
    asked = [launch for _, launch in found if launch.executor == "slurm"]
    waiting = {one.job: one for one in queue()} if asked else {}
    ended = history(job for launch in asked for job in launch.jobs if job not in waiting)

    def state(job: str, folder: Path, launch: Launch) -> JobState:
        if launch.executor == "slurm":
            return _of_slurm(job, waiting, ended)
        return _of_machine(job, folder, launch)

    found_states = []
    for folder, launch in found:
        jobs = launch.jobs
        states = [state(job, folder, launch) for job in jobs]
        states += [JobState(job="-", state="NOT SUBMITTED", alive=False)] * (len(launch.runs) - len(jobs))
        found_states.append(states)
    return found_states


def unrecorded(folder: Path, launch: Launch) -> list[str]:
    """Jobs in the queue whose script is in the launch's folder, and which its record does not name."""
    if launch.executor != "slurm":
        return []
    scripts = f"{folder / LOGS}/"
    return [one.job for one in queue() if one.script.startswith(scripts) and one.job not in launch.jobs]


def _place(output: str, working_folder: str) -> str:
    """An output, the same however it is written."""
    if not store.is_local(output):
        return output.rstrip("/")
    return str((Path(working_folder) / output.removeprefix("file://")).resolve())


def other_writers(outputs: Sequence[str], folder: Path, working_folder: Path) -> list[str]:
    """Jobs of other launches beside the one in `folder` that write, or will, to one of its runs' outputs; in words."""
    wanted = {_place(output, str(working_folder)) for output in outputs}

    def shares(launch: Launch) -> bool:
        return any(_place(run.output, launch.working_folder) in wanted for run in launch.runs)

    others = [(path, read_launch(path)) for path in launches(folder.parent) if path != folder]
    others = [(path, launch) for path, launch in others if shares(launch)]
    return [
        f"{run.output}, to which job {state.job} of launch {launch.name} writes ({state.state})"
        for (_, launch), states in zip(others, states_of(others), strict=True)
        for run, state in zip(launch.runs, states, strict=True)
        if state.alive and _place(run.output, launch.working_folder) in wanted
    ]
