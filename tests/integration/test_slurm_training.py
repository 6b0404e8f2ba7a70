"""Training jobs on a real cluster, whatever happens to them, end with the weights of a run that was left alone.

Launched in three ways; signalled, preempted, requeued, cut by their time limit; robbed of ranks and of nodes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from slip import checkpoint
from tests.integration.slurm_jobs import Job, ask, cluster, has_pending, is_gone, submit, wait_for
from tests.ports import free_port
from tests.tiny_data import colour_of, picture, write_shards

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 90
# What happens in the story of many stops, happens about every so many steps.
APART = 12
# One rank on each node.
CPUS = ("--gpus-per-node=0", "--mincpus=1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Where jobs run, and what all of them train."""

    folder: Path
    env: dict[str, str]
    train: list[str]


@pytest.fixture(scope="module")
def story(slurm_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("jobs") / "a folder with späces"
    manifest = write_shards(folder / "shards", [9, 5, 10])
    train = ["demo", "--data.manifest", manifest, "--eval.zeroshot", "None", "--model.image-size", "16"]
    train += ["--model.context-length", "8", "--model.ssl-hidden", "16", "--optim.global-batch", "8"]
    train += ["--max-steps", str(NUM_STEPS), "--optim.epochs", "34", "--optim.lr", "1e-4", "--optim.eps", "1e-4"]
    train += ["--data.workers", "1", "--data.shuffle-window", "4", "--log-every", "1", "--checkpoint-every", "10"]
    # Without a text tower a step takes a quarter; what happens to jobs is the same.
    train += ["--precision", "fp32", "--objective.name", "simclr"]
    return Story(folder=folder, env=slurm_env, train=[*train, "--ledger"])


def by_torchrun(story: Story, name: str, nodes: int, per_node: int, *more: str) -> Path:
    """The same run without Slurm; its output."""
    output = story.folder / name
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={per_node}"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=reference"]
    command = [*launcher, "-m", "slip.train", *story.train, *more, "--output", str(output)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    agents = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(nodes)
    ]
    logs = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * nodes, "\n".join(logs)
    return output


@pytest.fixture(scope="module")
def undisturbed(story: Story) -> Path:
    """On two ranks, from beginning to end."""
    return by_torchrun(story, "undisturbed", 1, 2)


def weights(output: Path) -> dict[str, torch.Tensor]:
    url = checkpoint.newest(str(output))
    assert url is not None
    return checkpoint.load(url).model


def losses(output: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_every_sample_once(output: Path) -> None:
    """As its ledger tells, beside the manifest."""
    command = [sys.executable, "-m", "slip", "ledger", "verify", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_as_if_undisturbed(job: Job, undisturbed: Path) -> None:
    assert job.wait_for_end() == "COMPLETED", job.said()
    assert sorted(losses(job.output)) == list(range(1, NUM_STEPS + 1))
    assert_equal_weights(job.output, undisturbed)
    assert_every_sample_once(job.output)


def signalled_in_the_first_seconds(job: Job) -> None:
    wait_for("the ranks", lambda: len(job.ranks()) == 2, said=job.said)
    ask(job.env, "scancel", "--signal=USR2", job.number)


def signalled_twice_while_a_checkpoint_is_written(job: Job) -> None:
    def is_being_written() -> bool:
        return any(job.output.glob("checkpoints/*.part-*"))

    def is_frozen_in_the_middle() -> bool:
        wait_for("a checkpoint being written", is_being_written, said=job.said)
        pid = job.ranks()[0]
        os.kill(pid, signal.SIGSTOP)
        if is_being_written():
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_for("rank 0 frozen while it writes", is_frozen_in_the_middle, said=job.said)
    with job.frozen() as pids:
        for name, number in (("USR2", signal.SIGUSR2), ("TERM", signal.SIGTERM)):
            ask(job.env, "scancel", f"--signal={name}", job.number)
            wait_for(name, lambda number=number: all(has_pending(p, number) for p in pids.values()), said=job.said)  # type: ignore[misc]


def preempted(job: Job) -> None:
    node = job.node_of(1)
    command = ["sbatch", "--parsable", "--partition=urgent", "--exclusive", f"--nodelist={node}", "--output=/dev/null"]
    urgent = ask(job.env, *command, "--wrap=sleep 1")
    state = ("squeue", "-h", "-t", "all", "-j", urgent, "-o", "%T")
    wait_for("the end of the urgent job", lambda: ask(job.env, *state) == "COMPLETED", said=job.said)


def requeued_by_hand(job: Job) -> None:
    ask(job.env, "scontrol", "requeue", job.number)


def robbed_of_a_rank(job: Job) -> None:
    os.kill(job.ranks()[1], signal.SIGKILL)


def warned_of_its_time_limit(job: Job) -> None:
    # Slurm looks at limits every half minute. It may have warned before there were ranks: then it ends them, a minute
    # after they began.
    with job.frozen() as pids:
        wait_for(
            "the warning",
            lambda: all(is_gone(pid) or has_pending(pid, signal.SIGUSR2) for pid in pids.values()),
            said=job.said,
        )


def set_time_limit(job: Job, minutes: int) -> None:
    """As soon as Slurm lets it be changed: not while it is ending a job at its limit."""
    command = ["scontrol", "update", f"jobid={job.number}", f"timelimit={minutes}"]
    wait_for("a new time limit", lambda: subprocess.run(command, env=job.env).returncode == 0, said=job.said)


def by_slip_launch(story: Story) -> Job:
    """From a checkout that is gone soon after."""
    checkout, name = story.folder / "checkout", "launched"
    for part in ("pipeline", "slip", "slurm"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "slip", "launch", *story.train, "--output", str(story.folder / name)]
    command += ["--name", name, "--nodes=2", "--tasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
    env = story.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=story.folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(checkout)
    number = json.loads((story.folder / f"launches/{name}/launch.json").read_text())["submissions"][0]["jobs"][0]
    log = story.folder / f"launches/{name}/logs/{number}_0_log.out"
    return Job(number=number, output=story.folder / name, log=log, env=story.env)


def slip(story: Story, *words: str) -> str:
    """What a verb prints, called where launches were made."""
    command, env = [sys.executable, "-m", "slip", *words], story.env | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=story.folder, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_launched_in_three_ways(story: Story) -> None:
    """Two nodes of two ranks: equal weights, also where the job of one is requeued in between."""
    steps = 16
    train = [*story.train, "--objective.name", "slip", "--max-steps", str(steps), "--checkpoint-every", "16"]
    few = dataclasses.replace(story, train=train)
    launched = by_slip_launch(few)
    launched.wait_until_trained(1, 1)
    ask(story.env, "scancel", "--signal=USR2", launched.number)
    launched.wait_for_start(2)
    assert launched.wait_for_end() == "COMPLETED", launched.said()
    assert launched.trained == 2
    options = ["--nodes=2", "--gpus-per-node=2", "--mincpus=2"]
    batch = submit(story.env, story.folder, "batch", few.train, options=options)
    by_hand = by_torchrun(few, "torchrun", 2, 2)
    assert batch.wait_for_end() == "COMPLETED", batch.said()
    assert batch.starts == 1
    assert_equal_weights(launched.output, by_hand)
    assert_equal_weights(batch.output, by_hand)
    status = slip(story, "launch", "status", "launched")
    assert f"{steps}/" in status
    assert "COMPLETED" in status, "as accounting says"
    assert slip(story, "launch", "logs", "launched").count("MFU is the share of") == 2


def test_an_evaluation_counts_the_same_as_a_job_of_two_ranks_that_is_stopped(story: Story, undisturbed: Path) -> None:
    folder = story.folder / "labelled"
    for number in range(40):
        place = folder / ("test" if number % 4 == 0 else "train") / colour_of(number // 4)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(picture(colour_of(number // 4), number))
    asked = [str(undisturbed), "--sets", str(folder), "--protocol", "knn", "linear", "--knn.neighbours", "3"]
    asked += ["--linear.epochs", "100", "--linear.batch", "8", "--linear.l2-halvings", "0"]
    slip(story, "evaluate", *asked, "--json", str(story.folder / "alone/results.json"))
    command = ["sbatch", "--parsable", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
    command += ["--job-name=evaluate", f"--output={story.folder}/evaluate.log", str(ROOT / "slurm/evaluate.sh"), *asked]
    env = story.env | {"SLIP_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    results = story.folder / "as a job/results.json"
    submitted = ask(env, *command, "--json", str(results))
    job = Job(number=submitted, output=undisturbed, log=story.folder / "evaluate.log", env=story.env)
    wait_for("the first results", results.exists, said=job.said)
    # As Slurm does two minutes before the time limit.
    ask(job.env, "scancel", "--signal=USR2", job.number)
    job.wait_for_start(2)
    assert job.wait_for_end() == "COMPLETED", job.said()
    assert "stopped by a signal; the job begins again" in job.said()
    assert job.said().count("knn on labelled: already evaluated") == 1
    assert "linear-fast" in job.said(), "the table"
    alone, as_job = (
        json.loads((story.folder / name / "results.json").read_text())["scores"] for name in ("alone", "as a job")
    )
    assert [score["protocol"] for score in as_job] == ["knn", "linear-sgd", "linear-fast"]
    assert as_job == alone


def test_the_doctor_looks_at_two_nodes(story: Story) -> None:
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-m", "slip", "doctor"]
    command += ["--manifest", story.train[2], "--output", str(story.folder / "healthy"), "--write-mb=8", "--read-mb=1"]
    env = story.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=story.folder, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 nodes" in done.stdout
    assert "0 BAD" in done.stdout
    assert list((story.folder / "healthy").rglob("*.*")) == []


def test_stopped_in_every_way(story: Story, undisturbed: Path) -> None:
    options = ["--nodes=2", *CPUS, "--signal=USR2@30"]
    job = submit(story.env, story.folder, "stopped", story.train, options=options)
    signalled_in_the_first_seconds(job)
    job.wait_for_start(2)
    trained, numbers = job.trained, {0}
    happenings = [signalled_twice_while_a_checkpoint_is_written, preempted, requeued_by_hand, robbed_of_a_rank]
    for number, happens in enumerate(happenings, 1):
        job.wait_until_trained(trained + 1, APART * number)
        trained, starts = job.trained, job.starts
        numbers.add(job.step_number())
        happens(job)
        job.wait_for_start(starts + 1)
    assert len(numbers) == 5, "what Slurm does to the ranks of one start must not reach those of the next"
    # Twice, as the job keeps its limit when it begins again.
    set_time_limit(job, 1)
    for last in (False, True):
        job.wait_until_trained(trained + 1, 0)
        trained, starts = job.trained, job.starts
        warned_of_its_time_limit(job)
        if last:
            set_time_limit(job, 60)
        job.wait_for_start(starts + 1)
    assert_as_if_undisturbed(job, undisturbed)
    assert "rank 1" in job.said() or "task 1" in job.said(), "who was killed is named"


def test_nodes_are_lost_until_there_are_fewer_than_the_job_had(story: Story, undisturbed: Path) -> None:
    job = submit(story.env, story.folder, "robbed of nodes", story.train, options=["--nodes=1-2", *CPUS])
    lost = []
    try:
        # First a node like any other, then that of rank 0 and the batch script, then one of the last two.
        for number, rank in enumerate((1, 0, 1), 1):
            job.wait_until_trained(number, APART * number)
            lost.append(job.node_of(rank))
            cluster(job.env, "kill-node", lost[-1])
            job.wait_for_start(number + 1)
        assert job.wait_for_end() == "COMPLETED", job.said()
    finally:
        for node in lost:
            cluster(job.env, "start-node", node)
    assert job.said().count("nodes: 2, ranks on each: 1") == 3
    assert job.said().count("nodes: 1, ranks on each: 1") == 1
    found, expected = losses(job.output), losses(undisturbed)
    assert found == pytest.approx(expected, rel=1e-3)
    # On as many ranks as before to the last bit; what followed the last checkpoint of two ranks was done again by one.
    shared = range(1, int(re.findall(r"resuming from .*step-(\d+)\.pt", job.said())[-1]) + 1)
    assert len(shared) >= APART
    assert [found[step] for step in shared] == [expected[step] for step in shared]
    assert_every_sample_once(job.output)


def test_a_job_that_fails_twice_in_one_step_ends(story: Story) -> None:
    """One of its shards is not there."""
    shards = story.folder / "incomplete"
    manifest = write_shards(shards, [9, 5, 10])
    (shards / "00001.tar").unlink()
    train = [*story.train, "--data.manifest", manifest]
    job = submit(story.env, story.folder, "failing", train, options=["--nodes=1", *CPUS])
    assert job.wait_for_end() == "FAILED", job.said()
    assert job.starts == 2
    assert "00001.tar" in job.said()
    assert "had failed there before; the job ends" in job.said()
    assert len((job.output / "failures.jsonl").read_text().splitlines()) == 2


def test_a_cancelled_job_stays_away(story: Story) -> None:
    job = submit(story.env, story.folder, "cancelled", story.train, options=["--nodes=1", *CPUS])
    wait_for("the rank", lambda: len(job.ranks()) == 1, said=job.said)
    ask(job.env, "scancel", job.number)
    assert job.wait_for_end() == "CANCELLED"
    assert job.starts == 1
