"""Which jobs begin again after their ranks have ended: every case that `decide` tells apart, and the command."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slip.command import AGAIN, BUG, UNAVAILABLE
from slip.job_note import JobNote, NoteWriter, read_note
from slip.requeue import FILE, Decision, Failure, JobFacts, decide, main, read_facts, read_failures

RUNNING = "JobId=7 JobName=slip JobState=RUNNING Reason=None Requeue=1 Restarts=2 BatchFlag=1 TimeLimit=01:00:00"
KILLED = 128 + signal.SIGKILL


def decided(
    status: int,
    *,
    facts: JobFacts | None = None,
    step: int | None = 12,
    checkpoint: int = 10,
    before: tuple[Failure, ...] = (),
) -> Decision:
    note = None if step is None else JobNote(output="runs/x", step=step)
    return decide(status, facts or read_facts(RUNNING), note, job="7", checkpoint=checkpoint, before=before)


def failure(step: int, *, checkpoint: int = 10, job: str = "7") -> Failure:
    return Failure(job=job, step=step, checkpoint=checkpoint, status=KILLED, unix_s=0.0)


def test_facts() -> None:
    assert read_facts(RUNNING) == JobFacts(state="RUNNING", requeue=True, restarts=2, over_limit=False)
    limit = "JobId=7 JobState=COMPLETING Reason=TimeLimit Requeue=0 Restarts=0"
    assert read_facts(limit) == JobFacts(state="COMPLETING", requeue=False, restarts=0, over_limit=True)
    # Slurm did not answer: nothing speaks against going on.
    assert read_facts("") == JobFacts(state="", requeue=True, restarts=0, over_limit=False)


def test_a_finished_job_ends() -> None:
    assert decided(0) == Decision(again=False, why="done")


@pytest.mark.parametrize("status", [AGAIN, 128 + signal.SIGUSR2, 128 + signal.SIGTERM])
def test_a_stopped_job_begins_again(status: int) -> None:
    assert decided(status, before=(failure(12), failure(12))).again
    assert decided(status, step=None).again
    assert decided(status, facts=JobFacts(state="SIGNALING")).again
    assert not decided(status, facts=JobFacts(state="COMPLETING")).again, "scancel, or requeued by hand"
    no_requeue = decided(status, facts=JobFacts(state="RUNNING", requeue=False))
    assert not no_requeue.again
    assert "--no-requeue" in no_requeue.why


def test_the_time_limit() -> None:
    facts = JobFacts(state="COMPLETING", over_limit=True)
    saved = decided(AGAIN, facts=facts)
    assert (saved.again, saved.failed) == (True, False)
    unsaved = decided(128 + signal.SIGTERM, facts=facts)
    assert (unsaved.again, unsaved.failed) == (True, True)
    assert "--signal" in unsaved.why
    # A limit too short for a checkpoint does not go on for ever.
    assert not decided(128 + signal.SIGTERM, facts=facts, before=(failure(11), failure(10))).again


@pytest.mark.parametrize("status", [1, 2, 130])
def test_an_explained_error_ends_the_job(status: int) -> None:
    found = decided(status)
    assert (found.again, found.failed) == (False, False)


@pytest.mark.parametrize("status", [KILLED, BUG, UNAVAILABLE, 128 + signal.SIGABRT])
def test_a_crash_begins_again_once_for_each_step(status: int) -> None:
    first = decided(status)
    assert (first.again, first.failed) == (True, True)
    assert "step 13" in first.why
    elsewhere = decided(status, before=(failure(11),))
    assert elsewhere.again
    again = decided(status, before=(failure(12),))
    assert (again.again, again.failed) == (False, True)
    assert "had failed there before" in again.why
    assert decided(status, before=(failure(12, job="6"),)).again, "submitted again by a person"
    assert "before its first step" in decided(status, step=-1).why


def test_failing_without_getting_on_ends() -> None:
    before = (failure(15), failure(14))
    assert not decided(KILLED, before=before).again
    assert decided(KILLED, before=before, checkpoint=20).again


def test_ranks_that_could_not_be_started() -> None:
    assert decided(1, step=None).again is False
    assert decided(KILLED, step=None, facts=JobFacts(state="RUNNING", restarts=4)).again
    assert not decided(KILLED, step=None, facts=JobFacts(state="RUNNING", restarts=5)).again


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIP_JOB_NOTE", str(tmp_path / "note"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return tmp_path


def test_the_note(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_note(os.environ) is None
    output = str(env / "a run with späces")
    writer = NoteWriter(output)
    first = read_note(os.environ)
    assert first is not None
    assert (first.output, first.step) == (output, -1)
    for step in (99_999, 7):
        writer.at(step)
        found = read_note(os.environ)
        assert found is not None
        assert found.step == step
    writer.close()
    # Another rank, and a process without a job.
    NoteWriter("elsewhere", enabled=False).at(3)
    monkeypatch.delenv("SLIP_JOB_NOTE")
    NoteWriter("elsewhere").at(3)
    assert json.loads((env / "note").read_text())["step"] == 7


def test_the_command_remembers_failures(env: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = env / "run"
    (output / "checkpoints").mkdir(parents=True)
    for name in ("step-00000010.pt", "step-00000020.pt.part-x-1"):
        (output / "checkpoints" / name).touch()
    writer = NoteWriter(str(output))
    writer.at(12)
    assert main([str(AGAIN), "--job", RUNNING]) == AGAIN
    assert read_failures(str(output)) == []
    assert main([str(KILLED), "--job", RUNNING]) == AGAIN
    assert "failed in step 13 with exit status 137" in capsys.readouterr().err
    assert main([str(KILLED), "--job", RUNNING]) == KILLED
    assert [(f.job, f.step, f.checkpoint, f.status) for f in read_failures(str(output))] == [("7", 12, 10, KILLED)] * 2
    # The status that asks for another start is never passed on by itself.
    assert main([str(AGAIN), "--job", RUNNING.replace("Requeue=1", "Requeue=0")]) == 1


def test_a_torn_memory_ends_the_job(env: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = env / "run"
    output.mkdir()
    (output / FILE).write_text('{"job": "7", "st')
    NoteWriter(str(output)).at(12)
    with pytest.raises(InputError, match="line 1"):
        read_failures(str(output))
    assert main([str(KILLED), "--job", RUNNING]) == KILLED
    assert "delete the file" in capsys.readouterr().err
