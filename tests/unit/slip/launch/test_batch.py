"""The batch script and the environment of sbatch."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from slip.launch.batch import Place, interpreter, sbatch_environment, script_text, submit
from slip.launch.settings import LaunchConfig
from slip.launch.site_file import Site
from slip.launch.task import TrainTask
from tests.unit.slip.launch.fake_slurm import Commands


def place(here: Path) -> Place:
    return Place(folder=here / "launches/my-run", working_folder=here)


def options(script: str) -> set[str]:
    return {" ".join(shlex.split(line)[1:]) for line in script.splitlines() if line.startswith("#SBATCH")}


def test_the_script_asks_for_what_was_said(here: Path) -> None:
    config = LaunchConfig(
        nodes=4, partition="gpu", account="vision", qos="high", constraint="a&b", mem_gb=1.5, time_min=90
    )
    script = script_text(config, Site(), place(here), 1)
    # "#SBATCH" is a comment to shlex.
    lines = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}
    logs = f"{here}/launches/my-run/logs"
    assert {shlex.split(line)[0] for line in lines} == {
        *("--job-name=my-run", "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=12"),
        *("--partition=gpu", "--account=vision", "--qos=high", "--constraint=a&b", "--mem=1500M", "--time=90"),
        *("--signal=USR2@120", "--requeue", "--open-mode=append", f"--chdir={here}", f"--output={logs}/%j_0_log.out"),
    }


def test_the_script_sources_ours_and_leaves_the_end_to_it(here: Path) -> None:
    script = script_text(LaunchConfig(), Site(), place(here), 1)
    lines = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert shlex.split(lines[0]) == [f"root={here}/launches/my-run/code"]
    assert lines.index('source "$root/slurm/job.sh"') < next(i for i, line in enumerate(lines) if "PYTHONPATH" in line)
    run, end = lines[-2:]
    words = shlex.split(run)
    assert words[0] == "srun"
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=12", "--open-mode=append"} <= set(words)
    logs = f"{here}/launches/my-run/logs"
    assert words[-5:] == [sys.executable, "-u", "-m", "submitit.core._submit", logs]
    # $? must be srun's.
    assert end == "job_end $?"
    assert "CUDA_VISIBLE_DEVICES" not in script


def test_ranks_on_cpus_see_no_gpus(here: Path) -> None:
    script = script_text(LaunchConfig(gpus_per_node=0), Site(), place(here), 1)
    assert "export CUDA_VISIBLE_DEVICES=\n" in script
    assert "gpus-per-node" not in script


def test_several_runs_are_an_array(here: Path) -> None:
    script = script_text(LaunchConfig(array_parallelism=2), Site(), place(here), 5)
    assert "#SBATCH --array=0-4%2\n" in script
    assert "%A_%a_%t_log.out" in script
    assert "#SBATCH --array=0-4%5\n" in script_text(LaunchConfig(), Site(), place(here), 5)


def test_the_interpreter_of_the_site_comes_before_the_one_in_use(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(path=Path("/s/my site.sh"), elsewhere=True, python=("apptainer", "exec", "a b.sif", "python"))
    assert interpreter(Site()) == (sys.executable,)
    script = script_text(LaunchConfig(), site, place(here), 1)
    assert "apptainer exec 'a b.sif' python -u -m submitit" in script
    assert "SLIP_PYTHON" not in script
    assert "export SLIP_SITE='/s/my site.sh'\n" in script
    monkeypatch.setenv("SLIP_PYTHON", "/my python")
    assert interpreter(site) == ("/my python",)
    script = script_text(LaunchConfig(), site, place(here), 1)
    # job.sh takes it from there, for what runs after srun.
    assert script.index("export SLIP_PYTHON='/my python'\n") < script.index("job.sh")


def test_what_a_setting_says_no_variable_may_say(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_QOS", "mine")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    site = Site(sbatch=(("SBATCH_PARTITION", "gpu"), ("SBATCH_TIMELIMIT", "5"), ("SBATCH_COMMENT", "c")))
    found = sbatch_environment(LaunchConfig(), site)
    chosen = {name: value for name, value in found.items() if name.startswith(("SBATCH_", "SLURM_JOB"))}
    assert chosen == {"SBATCH_QOS": "mine", "SBATCH_PARTITION": "gpu", "SBATCH_COMMENT": "c"}
    assert "SBATCH_PARTITION" not in sbatch_environment(LaunchConfig(partition="other"), site)


@pytest.mark.parametrize(("num_runs", "jobs"), [(1, ("77",)), (2, ("77_0", "77_1"))])
def test_sbatch_gets_the_script_that_is_shown(
    here: Path, slurm: Commands, monkeypatch: pytest.MonkeyPatch, num_runs: int, jobs: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    config = LaunchConfig(nodes=2, mem_gb=10)
    site = Site(sbatch=(("SBATCH_PARTITION", "gpu"),))
    tasks = [TrainTask(("demo", "--seed", str(number)), str(here)) for number in range(num_runs)]
    assert submit(config, site, place(here), tasks) == jobs
    assert slurm.submitted() == script_text(config, site, place(here), num_runs)
    assert slurm.environment()["SBATCH_PARTITION"] == "gpu"
    assert "SLURM_JOB_ID" not in slurm.environment()
    for job in jobs:
        assert (place(here).logs / f"{job}_submitted.pkl").exists()


def test_what_sbatch_says_is_the_error(here: Path, slurm: Commands) -> None:
    slurm.add("sbatch", status=1, error="sbatch: error: Invalid account")
    with pytest.raises(StoreError, match=r"sbatch did not take my-run: .*Invalid account"):
        submit(LaunchConfig(), Site(), place(here), [TrainTask(("demo",), str(here))])
