"""The batch script of a launch, and its submission through submitit.

In: settings, the site's, and the launch's folder. Out: the script's text, or job ids. The script is submitit's own: it
sources `slurm/job.sh` of the frozen code before srun, and leaves to its `job_end` what becomes of the job after.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.login_environment import environment_of_login, replaced_environment
from slip.launch.record import CODE, LOGS
from slip.launch.settings import LaunchConfig
from slip.launch.site_file import Site
from slip.launch.task import TrainTask

# These the script says itself; a variable would come before the script's lines.
_DECIDED = {
    f"SBATCH_{name}"
    for name in (
        *("ARRAY_INX", "CHDIR", "ERROR", "GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "JOB_NAME", "NO_REQUEUE"),
        *("OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TIMELIMIT"),
    )
}
# The count is submitit's guard against jobs that are requeued for ever; here job.sh sees whether steps are made.
_ANY_NUMBER = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a launch is, and where its runs start."""

    folder: Path
    """FOLDER/NAME, absolute."""
    working_folder: Path

    @property
    def code(self) -> Path:
        """The frozen code."""
        return self.folder / CODE

    @property
    def logs(self) -> Path:
        """What jobs write, and submitit's files."""
        return self.folder / LOGS


def interpreter(site: Site) -> tuple[str, ...]:
    """What runs Python in a job: SLIP_PYTHON, else the site's, else the interpreter in use."""
    named = os.environ.get("SLIP_PYTHON")
    return (named,) if named else site.python or (sys.executable,)


def sbatch_environment(config: LaunchConfig, site: Site) -> dict[str, str]:
    """The environment of sbatch: this process's, less a surrounding job's, and with the site's variables.

    sbatch heeds its variables before the script's lines, so what a setting says must not be said by a variable.
    """
    told = {name for name in ("partition", "account", "qos", "constraint") if getattr(config, name) is not None}
    hidden = _DECIDED | {f"SBATCH_{name.upper()}" for name in told}
    if config.mem_gb is not None:
        hidden |= {"SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"}
    environment = environment_of_login() | dict(site.sbatch)
    return {name: value for name, value in environment.items() if name not in hidden}


def _setup(config: LaunchConfig, site: Site, place: Place) -> list[str]:
    lines = [f"root={shlex.quote(str(place.code))}"]
    if site.elsewhere:
        lines.append(f"export SLIP_SITE={shlex.quote(str(site.path))}")
    python = interpreter(site)
    if python != site.python:
        lines.append(f"export SLIP_PYTHON={shlex.quote(python[0])}")
    lines.append('source "$root/slurm/job.sh"')
    # After job.sh, as modules may set them.
    lines.append('export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1')
    if config.gpus_per_node == 0:
        # Where Slurm does not hide what a job did not ask for, every rank would take the same GPU.
        lines.append("export CUDA_VISIBLE_DEVICES=")
    return lines


def sbatch_parameters(config: LaunchConfig, site: Site, place: Place, num_runs: int) -> dict[str, Any]:
    """What submitit makes the script from; what is None is left out of it."""
    given = {
        "job_name": place.folder.name,
        "nodes": config.nodes,
        "ntasks_per_node": config.ranks_per_node,
        "cpus_per_task": config.cpus_per_task,
        "gpus_per_node": config.gpus_per_node or None,
        "mem": None if config.mem_gb is None else f"{round(config.mem_gb * 1000)}M",
        "time": config.time_min,
        "signal_delay_s": config.signal_s,
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "constraint": config.constraint,
        "array_parallelism": config.array_parallelism or num_runs,
        "stderr_to_stdout": True,
        "setup": _setup(config, site, place),
        "teardown": ["job_end $?"],
        # job.sh's srun adds what the site wants.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={config.cpus_per_task}", "--open-mode=append"],
        "additional_parameters": {"requeue": True, "chdir": str(place.working_folder)},
    }
    # Submitit would say "submitit", which a cluster that checks the keys of its users does not know.
    return {name: value for name, value in given.items() if value is not None} | {"wckey": None}


def script_text(config: LaunchConfig, site: Site, place: Place, num_runs: int) -> str:
    """The batch script, exactly as `submit` gives it to sbatch; needs no Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = sbatch_parameters(config, site, place, num_runs)
    command = f"{shlex.join(interpreter(site))} -u -m submitit.core._submit {shlex.quote(str(place.logs))}"
    text: str = _make_sbatch_string(command, place.logs, map_count=num_runs if num_runs > 1 else None, **parameters)
    return text


def submit(config: LaunchConfig, site: Site, place: Place, tasks: Sequence[TrainTask]) -> tuple[str, ...]:
    """Submit the runs, several as one array; the id of each one's job. StoreError with sbatch's words."""
    import submitit
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    with replaced_environment(sbatch_environment(config, site)):
        executor = submitit.SlurmExecutor(
            folder=place.logs, max_num_timeout=_ANY_NUMBER, python=shlex.join(interpreter(site))
        )
        executor.update_parameters(**sbatch_parameters(config, site, place, len(tasks)))
        try:
            jobs = executor.submit_array(tasks)
        except (FailedSubmissionError, UncompletedJobError) as error:
            raise StoreError(f"sbatch did not take {place.folder.name}: {' '.join(str(error).split())}") from None
    return tuple(str(job.job_id) for job in jobs)
