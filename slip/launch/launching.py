"""Launching: settings are checked, code is frozen, runs are submitted, and what was done is written down.

In: a request. Out: FOLDER/NAME, jobs, and the text that says how to look after them. A launch that is there already is
submitted again where its runs have ended, with the code that was frozen then.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.errors import ConfigError, YfccError
from slip import train
from slip.launch import batch, local_jobs
from slip.launch.batch import Place, interpreter, sbatch_environment, script_text
from slip.launch.checks import check_cluster, check_gpus_here, check_runs, check_submitit
from slip.launch.estimate import estimate_lines
from slip.launch.freeze import checkout, freeze, origin_of
from slip.launch.jobs import other_writers, states_of, unrecorded
from slip.launch.record import FILE, Launch, RunRecord, Submission, read_launch, write_launch
from slip.launch.runs import Run, runs_of
from slip.launch.settings import DEFAULT_FOLDER, LaunchConfig, Request
from slip.launch.site_file import Site, read_site
from slip.launch.task import TrainTask
from slip.launch.watching import log_path


def _version() -> str:
    try:
        return metadata.version("yfcc15m-slip")
    except metadata.PackageNotFoundError:
        return "not installed"


def _records(runs: Sequence[Run]) -> tuple[RunRecord, ...]:
    return tuple(
        RunRecord(recipe=run.recipe, seed=run.config.seed, output=run.config.output, arguments=run.arguments)
        for run in runs
    )


def _settings(config: LaunchConfig) -> dict[str, Any]:
    return {one.name: getattr(config, one.name) for one in dataclasses.fields(config) if one.name != "run"}


def _new(request: Request, runs: Sequence[Run], place: Place, site: Site, root: Path) -> Launch:
    """Freeze the code and write down what will be submitted."""
    origin = origin_of(root)
    freeze(root, place.code, origin)
    for number, run in enumerate(runs):
        text = json.dumps(dataclasses.asdict(run.config), indent=1) + "\n"
        store.write_bytes(str(place.folder / f"config-{number}.json"), text.encode())
    launch = Launch(
        name=request.name,
        executor=request.config.executor,
        working_folder=str(place.working_folder),
        python=shlex.join(interpreter(site)),
        version=_version(),
        commit=origin.commit,
        dirty=origin.dirty,
        runs=_records(runs),
    )
    # Before anything is submitted: a job of which nothing is written could not be found again.
    write_launch(place.folder, launch)
    return launch


def _differences(launch: Launch, config: LaunchConfig, runs: Sequence[Run], place: Place) -> Iterator[str]:
    """In what the runs asked for are not those of the launch; what they are given (nodes, time) may differ."""
    if launch.executor != config.executor:
        yield f"it has --executor {launch.executor}"
    if launch.working_folder != str(place.working_folder):
        yield f"it was launched from {launch.working_folder}"
    if len(launch.runs) != len(runs):
        yield f"it has {len(launch.runs)} runs, asked for are {len(runs)}"
    for number, (old, new) in enumerate(zip(launch.runs, runs, strict=False)):
        if old.arguments != new.arguments:
            had = [word for word in old.arguments if word not in new.arguments]
            has = [word for word in new.arguments if word not in old.arguments]
            yield f"run {number} has {shlex.join(had) or 'less'} where {shlex.join(has) or 'less'} is asked for"


def _again(request: Request, runs: Sequence[Run], place: Place) -> Launch:
    """The launch that is there, if all of its runs have ended and are those asked for."""
    name = request.name
    if not (place.folder / FILE).exists():
        raise ConfigError(f"{place.folder} is there and has no {FILE}; remove it, or give this launch another --name")
    launch = read_launch(place.folder)
    look = f"slip launch status {name}{_where(request.config)}"
    for difference in _differences(launch, request.config, runs, place):
        raise ConfigError(
            f"there is a launch {name} already, of something else: {difference}. Give this one another --name, or look "
            f"at it: {look}"
        )
    (states,) = states_of([(place.folder, launch)])
    alive = [f"{state.job} {state.state}" for state in states if state.alive or state.state == "UNKNOWN"]
    alive += [f"{job} in the queue" for job in unrecorded(place.folder, launch)]
    if alive:
        raise ConfigError(
            f"there is a launch {name} already, and it has not ended ({', '.join(alive)}). Look at it: {look}; end it: "
            f"slip launch cancel {name}{_where(request.config)}; or give this one another --name"
        )
    return launch


def _where(config: LaunchConfig) -> str:
    return "" if config.folder == DEFAULT_FOLDER else f" --folder {config.folder}"


def _code_line(launch: Launch, *, again: bool) -> str:
    at = f"commit {launch.commit[:12]}" if launch.commit else "no git commit known"
    at += " with changes" if launch.dirty else ""
    return f"code      frozen {'then' if again else 'now'}, {at}"


def _report(request: Request, launch: Launch, runs: Sequence[Run], place: Place, *, again: bool) -> str:
    config, name, where = request.config, request.name, _where(request.config)
    shape = f"nodes: {config.nodes}; on each, ranks: {config.ranks_per_node}, GPUs: {config.gpus_per_node}"
    verb = "submitted again; each run goes on from its newest checkpoint" if again else "submitted"
    lines = [f"{name}: {verb} ({shape})"]
    for number, (run, job) in enumerate(zip(launch.runs, launch.jobs, strict=True)):
        what = "job" if config.executor == "slurm" else "process"
        lines.append(f"run {number}     {run.recipe}, seed {run.seed}: {what} {job}")
        lines += [f"  output  {run.output}", f"  log     {log_path(place.folder, job)}"]
    one = " --run 0" if len(runs) > 1 else ""
    return "\n".join(
        [
            *lines,
            _code_line(launch, again=again),
            *estimate_lines(config, runs),
            f"status    slip launch status {name}{where}",
            f"log       slip launch logs {name}{one} --follow{where}",
            f"cancel    slip launch cancel {name}{where}",
            "",
        ]
    )


def _partition(config: LaunchConfig, site: Site) -> str | None:
    return config.partition or sbatch_environment(config, site).get("SBATCH_PARTITION")


def _check(config: LaunchConfig, place: Place, runs: Sequence[Run], site: Site) -> None:
    check_runs(config, place, runs)
    if config.executor == "local":
        check_gpus_here(config.gpus_per_node)
    elif config.executor == "slurm":
        check_cluster(config, _partition(config, site))
    for writer in other_writers([run.config.output for run in runs], place.folder, place.working_folder):
        raise ConfigError(f"this would write to {writer}; cancel that one first, or give this one another --output")


def dry_run(request: Request, runs: Sequence[Run], place: Place, site: Site) -> str:
    """What would be submitted, for people."""
    config = request.config
    try:
        _check(config, place, runs, site)
        if place.folder.exists():
            _again(request, runs, place)
        verdict = "checks    passed"
    except YfccError as error:
        verdict = f"checks    FAILED: {error}"
    parts = []
    if config.executor == "slurm":
        parts += [f"# batch script of {request.name}", script_text(config, site, place, len(runs)), ""]
    for number, run in enumerate(runs):
        parts += [f"# run {number}: slip train {' '.join(run.arguments)}"]
        parts += [json.dumps(dataclasses.asdict(run.config), indent=1), ""]
    return "\n".join([*parts, *estimate_lines(config, runs), verdict, "nothing was submitted or written", ""])


def launch(request: Request) -> tuple[int, str]:
    """Do all of it; the exit status, and what to print."""
    config, runs = request.config, runs_of(request)
    place = Place(folder=Path(config.folder).expanduser().absolute() / request.name, working_folder=Path.cwd())
    if config.executor == "debug" and not config.dry_run:
        check_runs(config, place, runs)
        # Here and now, with the code as it is; nothing is frozen or recorded.
        return next((status for run in runs if (status := train.main(list(run.arguments)))), 0), ""
    check_submitit()
    root = checkout()
    again = place.folder.exists()
    site = read_site(place.code if again and (place.code / "slurm").exists() else root)
    if config.dry_run:
        return 0, dry_run(request, runs, place, site)
    _check(config, place, runs, site)
    made = _again(request, runs, place) if again else _new(request, runs, place, site, root)
    tasks = [TrainTask(run.arguments, made.working_folder) for run in made.runs]
    submit = batch.submit if config.executor == "slurm" else local_jobs.submit
    try:
        jobs = submit(config, site, place, tasks)
    except BaseException:
        if not again and not unrecorded(place.folder, made):
            # What was not submitted does not stand in the way of the next attempt.
            shutil.rmtree(place.folder, ignore_errors=True)
        raise
    submission = Submission(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        jobs=jobs,
        words=request.words,
        settings=_settings(config),
    )
    made = dataclasses.replace(made, submissions=(*made.submissions, submission))
    write_launch(place.folder, made)
    return 0, _report(request, made, runs, place, again=again)
