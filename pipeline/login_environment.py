"""The environment that a job is submitted with: that of a login, also where who submits runs in a job.

sbatch hands its environment on, so a job submitted from within another would take that one's node list, task count and
ranks for its own. In: this process's environment. Out: the part of it that is not a surrounding job's. Shared by both
packages' launchers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_", "MASTER_", "TORCHELASTIC_")
_OF_A_RANK = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"}
# But where the cluster is, and where the user's jobs may run, is said by the same kind of variable.
_OF_THE_USER = {"SLURM_CONF", "SLURM_CONF_SERVER"} | {
    f"SBATCH_{name}" for name in ("ACCOUNT", "CLUSTERS", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION")
}
_lock = threading.Lock()


def environment_of_login() -> dict[str, str]:
    """This process's environment without what belongs to a job it runs in."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _OF_THE_USER or not (name.startswith(_OF_A_JOB) or name in _OF_A_RANK)
    }


def _become(environment: Mapping[str, str]) -> None:
    """Make this process's environment `environment`; what is the same in both is at no moment away."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


@contextmanager
def replaced_environment(environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Put `environment` in the place of this process's, for libraries that submit with whatever they find.

    Several threads may do so: each waits for the one before it.

    Args:
        environment: None is that of a login, as it is when no other thread has replaced it.
    """
    with _lock:
        kept = dict(os.environ)
        try:
            _become(environment_of_login() if environment is None else environment)
            yield
        finally:
            _become(kept)
