"""What is submitted: it is pickled by name, ends with training's status, and is submitted again as it is."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.submission import process_job
from submitit.core.utils import DelayedSubmission, JobPaths, cloudpickle_dump, pickle_load
from submitit.local.local import LocalJobEnvironment

from slip.launch.task import TrainTask

TASK = TrainTask(("demo", "--seed", "3"), "/somewhere/älse")


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int = 1) -> None:
    """The environment of a rank of the local executor; put back afterwards, what a rank exports too."""
    for name in (
        "MASTER_ADDR",
        "MASTER_PORT",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "SUBMITIT_FOLDER",
    ):
        monkeypatch.setenv(name, "7")
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for name, value in (("NTASKS", 2), ("JOB_NUM_NODES", 1), ("NODEID", 0), ("GLOBALID", rank), ("LOCALID", rank)):
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", str(value))
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "55")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")


def trains(monkeypatch: pytest.MonkeyPatch, status: int) -> list[tuple[list[str], str, dict[str, str]]]:
    """Training that ends with a status; what it was called with, where, and in which environment."""
    seen: list[tuple[list[str], str, dict[str, str]]] = []

    def fake(words: list[str]) -> int:
        seen.append((words, os.getcwd(), dict(os.environ)))
        return status

    monkeypatch.setattr("slip.train.main", fake)
    return seen


def test_it_is_pickled_by_name(tmp_path: Path) -> None:
    cloudpickle_dump(TASK, tmp_path / "task.pkl")
    assert b"slip.launch.task" in (tmp_path / "task.pkl").read_bytes()
    # By value a class would come back as another one.
    assert type(pickle_load(tmp_path / "task.pkl")) is TrainTask
    assert pickle_load(tmp_path / "task.pkl") == TASK


def test_it_trains_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    seen = trains(monkeypatch, 0)
    TrainTask(("demo", "--seed", "3"), str(tmp_path))()
    assert [call[:2] for call in seen] == [(["demo", "--seed", "3"], str(tmp_path))]


@pytest.mark.parametrize("status", [1, 2, 75, 130])
def test_it_ends_with_the_status_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.chdir("/")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    trains(monkeypatch, status)
    with pytest.raises(SystemExit) as caught:
        TrainTask(("demo",), str(tmp_path))()
    assert caught.value.code == status


def submitted(tmp_path: Path) -> JobPaths:
    paths = JobPaths(tmp_path, job_id="55", task_id=1)
    delayed = DelayedSubmission(TrainTask(("demo",), str(tmp_path)))
    delayed.set_timeout(1, 3)
    delayed.dump(paths.submitted_pickle)
    return paths


@pytest.mark.parametrize(("status", "done"), [(0, True), (75, False)])
def test_submitit_runs_it_and_a_stopped_run_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, done: bool
) -> None:
    monkeypatch.chdir("/")
    as_rank(monkeypatch)
    monkeypatch.setattr(LocalJobEnvironment, "_handle_signals", lambda *_: None)
    seen = trains(monkeypatch, status)
    paths = submitted(tmp_path)
    # As a rank leaves it that is killed while it writes its result.
    Path(f"{paths.result_pickle}.save_tmp").write_bytes(b"torn")
    with nullcontext() if done else pytest.raises(SystemExit):
        process_job(tmp_path)
    assert paths.result_pickle.exists() == done
    environment = seen[0][2]
    ranks = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "10055",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    assert ranks.items() <= environment.items()


@pytest.mark.parametrize("timed_out", [True, False])
def test_a_signal_before_training_listens_submits_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed_out: bool
) -> None:
    as_rank(monkeypatch, rank=0)
    paths = submitted(tmp_path)
    again: list[int] = []
    monkeypatch.setattr(SignalHandler, "has_timed_out", lambda _: timed_out)
    monkeypatch.setattr(LocalJobEnvironment, "_requeue", lambda _, countdown: again.append(countdown))
    handler = SignalHandler(LocalJobEnvironment(), paths, DelayedSubmission.load(paths.submitted_pickle))
    with pytest.raises(SystemExit):
        handler.checkpoint_and_try_requeue(12)
    assert again == [2 if timed_out else 3]
    assert DelayedSubmission.load(paths.submitted_pickle).function == TrainTask(("demo",), str(tmp_path))


def test_both_protocols_submit_the_same() -> None:
    for method in (TASK.__submitit_checkpoint__, TASK.checkpoint):
        delayed = method()
        assert isinstance(delayed, DelayedSubmission)
        assert (delayed.function, delayed.args, delayed.kwargs) == (TASK, (), {})
