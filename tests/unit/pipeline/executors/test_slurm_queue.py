"""What is asked of Slurm and how its answers are read; sbatch and the others are shell scripts here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.config import SlurmConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.executors import slurm_queue
from pipeline.executors.slurm_queue import Queue, Task, check_slurm, longest_array


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Slurm's programs, which note how they were called; `answer` says what they print."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        answer(folder, name, "")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def answer(folder: Path, name: str, text: str, *, code: int = 0) -> None:
    script = folder / name
    script.write_text(
        f"#!/bin/sh\necho \"{name} $@\" >>'{folder}/calls'\nenv >'{folder}/environment'\n"
        f"cat '{folder}/{name}.answer'\ncat '{folder}/{name}.answer' >&2\nexit {code}\n"
    )
    script.chmod(0o755)
    (folder / f"{name}.answer").write_text(text)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_the_queue_is_read_by_task(programs: Path, tmp_path: Path) -> None:
    lines = ["12|0|RUNNING|None", "12|3|PENDING|Resources", "15|N/A|COMPLETING|None"]
    lines.append("16|1|PENDING|launch failed requeued held")
    answer(programs, "squeue", "\n".join(lines) + "\n")
    queue = Queue("fetch", tmp_path, SlurmConfig())
    found = queue.tasks()
    assert found["12_3"] == Task("PENDING", "Resources")
    assert list(found) == ["12_0", "12_3", "15", "16_1"]
    assert [task.is_running for task in found.values()] == [True, False, True, False]
    assert [task.is_stuck for task in found.values()] == [False, False, False, True]
    assert f"-u {os.getuid()} -n {queue.name} -t PENDING," in calls(programs)[0]


def test_builds_and_kinds_have_names_of_their_own(tmp_path: Path) -> None:
    names = {Queue(kind, tmp_path / work, SlurmConfig()).name for kind in ("fetch", "seal") for work in "ab"}
    assert len(names) == 4
    assert Queue("fetch", tmp_path, SlurmConfig()).name == Queue("fetch", tmp_path, SlurmConfig()).name


def test_a_failing_squeue_is_an_error_and_not_an_empty_queue(programs: Path, tmp_path: Path) -> None:
    answer(programs, "squeue", "Unable to contact slurm controller\n", code=1)
    with pytest.raises(StoreError, match="Unable to contact"):
        Queue("fetch", tmp_path, SlurmConfig()).tasks()


def test_a_silent_squeue_is_an_error(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "CLIENT_TIMEOUT_S", 0.2)
    (programs / "squeue").write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(StoreError, match="no answer"):
        Queue("fetch", tmp_path, SlurmConfig()).tasks()


def test_an_array_is_submitted_as_set_and_without_this_jobs_environment(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(programs, "sbatch", "Submitted batch job 77\n")
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_MEM_PER_CPU", "SRUN_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/elsewhere.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    settings = SlurmConfig(max_tasks=9, cpus_per_task=3, mem_gb=5, time_min=42, partition="gpu", account="us")
    logs = Queue("fetch", tmp_path, settings).submit(print, [(1, "a"), (2, "b")])
    folder = tmp_path / "slurm" / "0000-fetch"
    assert logs == {"77_0": folder / "77_0_0_log.out", "77_1": folder / "77_1_0_log.out"}
    script = (folder / "77_submission.sh").read_text()
    for line in ("array=0-1%2", "cpus-per-task=3", "mem=5GB", "time=42", "partition=gpu", "account=us"):
        assert f"#SBATCH --{line}\n" in script
    assert "srun" not in script
    assert f"export PYTHONPATH={Path(slurm_queue.__file__).parents[2]}" in script
    environment = (programs / "environment").read_text()
    assert "SLURM_CONF=/etc/elsewhere.conf\n" in environment
    assert "SBATCH_ACCOUNT=mine\n" in environment
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_MEM_PER_CPU", "SRUN_CPUS_PER_TASK"):
        assert f"\n{name}=" not in f"\n{environment}"
        assert os.environ[name] == "1"


def test_each_submission_has_a_folder_of_its_own(programs: Path, tmp_path: Path) -> None:
    answer(programs, "sbatch", "Submitted batch job 1\n")
    for queue in (Queue("fetch", tmp_path, SlurmConfig()), Queue("fetch", tmp_path, SlurmConfig())):
        queue.submit(print, [(1,)])
    assert sorted(path.name for path in (tmp_path / "slurm").iterdir()) == ["0000-fetch", "0001-fetch"]


def test_a_refused_array_is_an_error_with_sbatchs_words(programs: Path, tmp_path: Path) -> None:
    answer(programs, "sbatch", "invalid partition specified: nosuch\n", code=1)
    with pytest.raises(StoreError, match="invalid partition specified: nosuch"):
        Queue("fetch", tmp_path, SlurmConfig()).submit(print, [(1,)])
    assert len(calls(programs)) == 1


def test_an_answer_that_got_lost_leaves_no_second_array(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(programs, "sbatch", "Submitted batch job 5\n")
    queue = Queue("fetch", tmp_path, SlurmConfig())
    queue.submit(print, [(1,), (2,)])
    answer(programs, "sbatch", "Socket timed out on send/recv operation\n", code=1)
    answer(programs, "squeue", "5|0|RUNNING|None\n6|0|PENDING|None\n6|1|PENDING|None\n")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(StoreError, match="Socket timed out"):
        queue.submit(print, [(1,), (2,)])
    assert calls(programs).count("scancel 6_0 6_1") == slurm_queue.SUBMIT_ATTEMPTS - 1
    assert not any("5_0" in call for call in calls(programs))


def test_cancelling_never_fails(programs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue("seal", tmp_path, SlurmConfig())
    queue.cancel(["1_0", "1_1"])
    queue.cancel()
    queue.cancel([])
    assert calls(programs) == ["scancel 1_0 1_1", f"scancel -u {os.getuid()} -n {queue.name}"]
    answer(programs, "scancel", "no route to host\n", code=1)
    queue.cancel()
    assert f"scancel -n {queue.name}" in caplog.text


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        ("MaxArraySize            = 1001\nMaxDBDMsgs = 20\n", 1001),
        ("MaxArraySize = 4000001\nSchedulerParameters = bf_max=3,max_array_tasks=500,x=1\n", 500),
        ("MaxArraySize            = 0\n", 1),
        ("", 1),
    ],
)
def test_the_longest_array_is_the_clusters(programs: Path, config: str, tasks: int) -> None:
    answer(programs, "scontrol", config)
    assert longest_array() == tasks


def test_a_machine_without_slurm_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch, squeue, scancel, scontrol not found"):
        check_slurm()
