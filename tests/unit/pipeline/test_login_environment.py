from __future__ import annotations

import os

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
