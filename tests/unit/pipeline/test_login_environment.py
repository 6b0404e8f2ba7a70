from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.login_environment import environment_of_login, replaced_environment


def test_a_surrounding_job_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_TIMELIMIT", "SRUN_X", "RANK", "MASTER_ADDR", "SUBMITIT_EXECUTOR"}
    kept = {"SLURM_CONF", "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SLIP_SITE", "RANKING", "HOME"}
    for name in hidden | kept:
        monkeypatch.setenv(name, "x")
    found = environment_of_login()
    assert kept <= found.keys()
    assert not hidden & found.keys()


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    before = dict(os.environ)
    seen = []

    def fail() -> None:
        with replaced_environment({"ONLY": "this"}):
            seen.append(dict(os.environ))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [{"ONLY": "this"}]
    assert dict(os.environ) == before


def test_threads_that_submit_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build does that seals some units while it fetches others."""
    names = [f"SLURM_{number}" for number in range(200)]
    for name in names:
        monkeypatch.setenv(name, "x")
    before = dict(os.environ)

    def submit(_: int) -> bool:
        here = "PATH" in os.environ
        with replaced_environment():
            return here and not any(name in os.environ for name in names)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(submit, range(200)))
    assert dict(os.environ) == before
