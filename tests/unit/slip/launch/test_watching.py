"""status, logs and cancel, of launches whose jobs a made-up Slurm knows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, InputError
from slip.launch.command import main
from slip.launch.record import Launch, RunRecord, Submission, write_launch
from slip.launch.watching import LogsConfig, follow, logs
from slip.recipes import recipe
from tests.unit.slip.launch.fake_slurm import Commands, queue_line


def launched(here: Path, name: str, *submissions: tuple[str, ...], executor: str = "slurm", host: str = "h") -> Path:
    """A launch with as many runs as its submissions have jobs."""
    folder = here / "launches" / name
    (folder / "logs").mkdir(parents=True)
    runs = []
    for number in range(len(submissions[0])):
        config = dataclasses.replace(recipe("demo"), output=f"runs/{name}/{number}")
        (folder / f"config-{number}.json").write_text(json.dumps(dataclasses.asdict(config)))
        runs.append(RunRecord(recipe="demo", seed=number, output=config.output, arguments=("demo",)))
    launch = Launch(
        name=name,
        executor=executor,
        working_folder=str(here),
        python="python",
        version="1",
        commit=None,
        dirty=None,
        runs=tuple(runs),
        submissions=tuple(
            Submission(at="", host=host, jobs=jobs, words=(), settings={}) for jobs in submissions if jobs[0]
        ),
    )
    write_launch(folder, launch)
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    """The cells of what status prints."""
    assert main(["status", *words]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    starts = [heading.index(name) for name in heading.split()]
    return [[row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in rows]


def test_status_says_how_each_run_is(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    launched(here, "a", ("10_0", "10_1", "10_2"))
    launched(here, "b", ("9",), ("11",))
    launched(here, "c", ("",))
    slurm.add(
        "squeue",
        queue_line("10_0", "RUNNING", restarts=2, nodes="node[1-2]")
        + queue_line("10_1", "PENDING", reason="Resources")
        + queue_line("9", "RUNNING"),
    )
    slurm.add("sacct", "10_2|REQUEUED|0:0|node1\n10_2|FAILED|1:0|node3\n")
    output = here / "runs/a/0"
    output.mkdir(parents=True)
    # demo: 10 epochs, batches of 64; epoch 0.5 in 4 steps -> 80 steps; 76 steps of 64 samples at 32 samples/s.
    record = {"step": 4, "epoch": 0.5, "loss": 3.25, "images_per_s": 32.0}
    (output / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    unknown = "how is not known without accounting; its log may say"
    assert shown(capsys) == [
        ["a", "0", "10_0", "RUNNING", "2", "node[1-2]", "4/80", "3.2500", "32", "0:02:32", ""],
        ["a", "1", "10_1", "PENDING", "0", "-", "-", "-", "-", "-", "Resources"],
        ["a", "2", "10_2", "FAILED", "1", "node3", "-", "-", "-", "-", "exit code 1:0"],
        ["b", "0", "11", "ENDED", "-", "-", "-", "-", "-", "-", unknown],
        ["c", "0", "-", "NOT SUBMITTED", "-", "-", "-", "-", "-", "-", ""],
    ]
    assert len(slurm.calls("squeue")) == 1
    assert [row[0] for row in shown(capsys, "b", "c")] == ["b", "c"]


def test_a_pending_run_has_no_time_to_go(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    launched(here, "a", ("10",))
    (here / "runs/a/0").mkdir(parents=True)
    record = {"step": 4, "epoch": 0.5, "loss": 3.25, "images_per_s": 32.0}
    (here / "runs/a/0/metrics.jsonl").write_text(json.dumps(record) + "\n")
    slurm.add("squeue", queue_line("10", "PENDING", reason="Priority"))
    assert shown(capsys)[0][6:] == ["4/80", "3.2500", "32", "-", "Priority"]


def test_status_without_launches_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "no launches in launches\n"
    assert main(["status", "x", "--folder", "y"]) == 1
    assert "y/x/launch.json: no launch there" in capsys.readouterr().err


def test_slurm_that_fails_is_one_line(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    launched(here, "a", ("10",))
    slurm.add("squeue", status=1, error="Unable to contact slurm controller")
    assert main(["status"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Unable to contact" in err


def test_local_launches_need_no_slurm(here: Path, no_slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    launched(here, "a", ("1",), executor="local", host="another")
    assert shown(capsys)[0][3:6] == ["UNKNOWN", "-", "another"]


def test_logs_are_those_of_all_attempts(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    folder = launched(here, "a", ("9",), ("11",))
    (folder / "logs/9_0_log.out").write_text("first ü\n")
    (folder / "logs/11_0_log.out").write_text("second\n")
    (folder / "logs/11_1_log.out").write_text("of another rank\n")
    assert main(["logs", "a"]) == 0
    assert capsys.readouterr().out == "first ü\nsecond\n"


def test_of_several_runs_one_is_named(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    folder = launched(here, "a", ("9_0", "9_1"))
    (folder / "logs/9_1_0_log.out").write_text("mine\n")
    assert main(["logs", "a"]) == 2
    assert "name one with --run: 0 (runs/a/0), 1 (runs/a/1)" in capsys.readouterr().err
    assert main(["logs", "a", "--run", "1"]) == 0
    assert capsys.readouterr().out == "mine\n"
    with pytest.raises(ConfigError, match="a has runs 0 to 1"):
        logs(LogsConfig(name="a", run=2), print, print)


def test_a_job_that_waits_has_no_log(here: Path, slurm: Commands) -> None:
    launched(here, "a", ("9",))
    slurm.add("squeue", queue_line("9", "PENDING", reason="Priority"))
    with pytest.raises(InputError, match="run 0 has no log yet; job 9 is PENDING Priority"):
        logs(LogsConfig(name="a"), print, print)


def test_a_log_is_followed_until_the_job_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written: list[str] = []
    states = iter([False, False, True])

    def ended() -> bool:
        over = next(states)
        if over:
            # Written just before the end.
            with path.open("a") as file:
                file.write("last\n")
        return over

    pauses = iter(["first\n", "second ü\n"])

    def pause() -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(next(pauses))

    follow(path, ended, written.append, pause)
    assert "".join(written) == "first\nsecond ü\nlast\n"


def test_following_asks_the_controller_now_and_then(here: Path, slurm: Commands) -> None:
    folder = launched(here, "a", ("9",))
    (folder / "logs/9_0_log.out").write_text("line\n")
    slurm.add("squeue", queue_line("9", "RUNNING"))
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 15:
            slurm.add("squeue")

    written: list[str] = []
    logs(LogsConfig(name="a", follow=True), written.append, pause)
    assert "".join(written) == "line\n"
    assert (pauses, len(slurm.calls("squeue"))) == (20, 3)


def test_what_is_in_the_queue_is_cancelled(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    folder = launched(here, "a", ("9_0", "9_1", "9_2"))
    other = launched(here, "ab", ("14",))
    slurm.add(
        "squeue",
        queue_line("9_1", "RUNNING")
        + queue_line("9_2", "PENDING")
        # Submitted by a process that was killed before it wrote it down; and another launch's.
        + queue_line("13", "PENDING", script=f"{folder}/logs/.submission_file_1.sh")
        + queue_line("14", "RUNNING", script=f"{other}/logs/.submission_file_1.sh"),
    )
    assert main(["cancel", "a"]) == 0
    assert slurm.calls("scancel") == ["9_1 9_2 13"]
    assert capsys.readouterr().out.splitlines() == [
        "cancelled: run 1, job 9_1, which was RUNNING",
        "cancelled: run 2, job 9_2, which was PENDING",
        "cancelled: not in the record, job 13, which was in the queue",
    ]


def test_nothing_to_cancel_is_said(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    launched(here, "a", ("9",))
    slurm.add("sacct", "9|COMPLETED|0:0|node1\n")
    assert main(["cancel", "a"]) == 0
    assert capsys.readouterr().out == "a: nothing to cancel (9 COMPLETED)\n"
    assert slurm.calls("scancel") == []
