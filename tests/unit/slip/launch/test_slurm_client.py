"""What is read from the answers of Slurm's commands."""

from __future__ import annotations

import os

import pytest

from pipeline.errors import StoreError
from slip.launch import slurm_client
from slip.launch.slurm_client import (
    Ended,
    Node,
    Partition,
    Queued,
    ask,
    history,
    nodes_of,
    parse_gpus,
    parse_history,
    parse_minutes,
    parse_queue,
    partitions,
    queue,
)
from tests.unit.slip.launch.fake_slurm import Commands, queue_line


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("infinite", None), ("n/a", None), ("30:00", 30), ("5:30", 5.5), ("12:00:00", 720), ("2-01:00:00", 2940)],
)
def test_time_limits(text: str, minutes: float | None) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", 0),
        ("gpu:8", 8),
        ("gpu:a100:8", 8),
        ("gpu:a100:8(S:0-1)", 8),
        ("nvme:1,gpu:tesla_v100-sxm2:4(S:0,1),gpu:l4:2", 6),
        ("shard:gpu:16,gpu:1", 1),
        ("craynetwork:4,gpus:3", 0),
    ],
)
def test_gpus_of_a_node(gres: str, gpus: int) -> None:
    assert parse_gpus(gres) == gpus


def test_partitions_and_nodes(slurm: Commands) -> None:
    assert partitions() == {
        "main": Partition(name="main", is_default=True, limit_min=1440),
        "urgent": Partition(name="urgent", is_default=False, limit_min=30),
    }
    assert nodes_of("main")[0] == Node(name="node1", gpus=8, cpus=96, memory_mb=512_000)
    assert len(nodes_of("main")) == 4


def test_the_queue() -> None:
    script = "/a b/läunches/x/logs/.submission_file_1.sh"
    text = queue_line("12_3", "PENDING", restarts=2, reason="launch failed requeued held", script=script)
    text += queue_line("13", "RUNNING", nodes="gpu[03-05,9]")
    assert parse_queue(text) == [
        Queued(job="12_3", state="PENDING", restarts=2, nodes="", reason="launch failed requeued held", script=script),
        Queued(job="13", state="RUNNING", restarts=0, nodes="gpu[03-05,9]", reason="None", script=""),
    ]


def test_the_queue_is_asked_for_this_user_only(slurm: Commands) -> None:
    assert queue() == []
    (call,) = slurm.calls("squeue")
    assert f"-u {os.getuid()} " in call
    assert "RestartCnt:10" in call


def test_attempts_are_counted_and_the_last_one_counts() -> None:
    text = "12_0|REQUEUED|0:0|node1\n12_0|CANCELLED by 1000|0:15|node[2-3]\n12_1|COMPLETED|0:0|node1\n"
    assert parse_history(text) == {
        "12_0": Ended(state="CANCELLED", exit_code="0:15", restarts=1, nodes="node[2-3]"),
        "12_1": Ended(state="COMPLETED", exit_code="0:0", restarts=0, nodes="node1"),
    }


def test_without_accounting_nothing_is_known(slurm: Commands) -> None:
    slurm.add("sacct", "12|COMPLETED|0:0|node1\n")
    assert list(history(["12"])) == ["12"]
    slurm.add("sacct", status=1, error="Slurm accounting storage is disabled")
    assert history(["12"]) == {}
    slurm.remove("sacct")
    assert history(["12"]) == {}


def test_what_a_command_says_is_in_the_error(slurm: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.add("squeue", status=1, error="Unable to contact slurm controller")
    with pytest.raises(StoreError, match=r"squeue .*: exit code 1: Unable to contact slurm controller"):
        queue()
    slurm.remove("squeue")
    with pytest.raises(StoreError, match="squeue is not on the PATH"):
        queue()


def test_slurm_that_does_not_answer_is_an_error(no_slurm: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_client, "CLIENT_TIMEOUT_S", 0.2)
    with pytest.raises(StoreError, match="sleep gave no answer in 0 s; is slurmctld up"):
        ask("sleep", "600")
