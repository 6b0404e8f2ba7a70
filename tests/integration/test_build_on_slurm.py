"""The build on a real cluster: a task is killed, a node is lost, and the bytes are those of one machine."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.sample.sample import SamplePaths, make_sample

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--samples-per-shard=12", "--threads=8", "--retries=2", "--timeout-s=5", "--max-rejected=0.9"]
SLURM_FLAGS = ["--slurm.units-per-task=2", "--slurm.cpus-per-task=1", "--slurm.mem-gb=1", "--slurm.time-min=10"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How the same data set is built here and there."""

    arguments: list[str]
    env: dict[str, str]


@pytest.fixture(scope="module")
def build(slurm_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    sample: SamplePaths = make_sample(tmp_path_factory.mktemp("sample"), num_rows=150, num_heldout=10)
    faults = [f"--{fault}=0.05" for fault in ("dead", "placeholder", "truncated", "flaky")]
    command = [sys.executable, "-u", str(ROOT / "tests/faults/flickr_stand_in.py"), "--port=0", "--duplicates=0.1"]
    server = subprocess.Popen([*command, *faults, f"--photos={sample.photos}"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    proxy = server.stdout.readline().split()[-1]
    arguments = ["--metadata", str(sample.metadata), "--subset-list", str(sample.subset_list), *FLAGS, *SLURM_FLAGS]
    env = slurm_env | {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "", "SLIP_PYTHON": sys.executable}
    yield Build(arguments=arguments, env=env)
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def built_here(build: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what one machine makes."""
    output = tmp_path_factory.mktemp("here") / "out"
    command = [sys.executable, str(ROOT / "pipeline/build_yfcc15m.py"), *build.arguments, "--output", str(output)]
    done = subprocess.run(
        [*command, "--processes=2"], env=build.env, stderr=subprocess.PIPE, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "duplicate_image" in done.stderr
    return contents(output)


def contents(output: Path) -> dict[str, str]:
    """Digest of every file; the report tells how fast it was."""
    names = sorted(path.name for path in output.iterdir() if path.name != "report.html")
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in names}


def ask(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class Task:
    """A task in the queue."""

    name: str
    job: str
    state: str
    node: str


def tasks(env: dict[str, str], kind: str) -> list[Task]:
    lines = ask(env, "squeue", "-h", "-r", "-o", "%j|%A|%T|%N").splitlines()
    return [Task(*line.split("|")) for line in lines if line.startswith(f"yfcc15m-{kind}-")]


def wait_for(what: str, seconds: float, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def process_of(task: Task) -> int | None:
    """The Python process of a task; all nodes are on this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"submitit.core._submit" in command and f"\0SLURM_JOB_ID={task.job}\0".encode() in b"\0" + environ:
            return int(folder.name)
    return None


def test_a_killed_task_and_a_lost_node_leave_the_same_bytes(
    build: Build, built_here: dict[str, str], tmp_path: Path
) -> None:
    """`sbatch slurm/build_yfcc15m.sh`: the driver is a job too, and submits its arrays from there."""
    env, log_path = build.env, tmp_path / "driver.log"
    submit = ["sbatch", "--parsable", "--cpus-per-task=1", "--mem=1G", "--time=10", f"--output={log_path}"]
    arguments = [*build.arguments, "--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    driver = ask(env, *submit, str(ROOT / "slurm/build_yfcc15m.sh"), *arguments)

    def driver_state() -> str:
        return ask(env, "squeue", "-h", "-t", "all", "-j", driver, "-o", "%T|%N")

    def are_running() -> bool:
        assert "FAILED" not in driver_state(), log_path.read_text()
        found = tasks(env, "fetch")
        return len(found) == 4 and all(task.state == "RUNNING" and process_of(task) for task in found)

    wait_for("an array of four tasks", 60, are_running)
    running = tasks(env, "fetch")
    driver_node = driver_state().split("|")[1]
    lost = next(task for task in running if task.node != driver_node)
    killed = process_of(next(task for task in running if task.node != lost.node))
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    ask(env, "scontrol", "update", f"nodename={lost.node}", "state=down", "reason=test")
    try:
        wait_for(
            "the end of the build", 240, lambda: not driver_state().startswith(("PENDING", "RUNNING", "COMPLETING"))
        )
    finally:
        ask(env, "scontrol", "update", f"nodename={lost.node}", "state=resume")
    log = log_path.read_text()
    assert driver_state().startswith("COMPLETED"), log
    assert contents(tmp_path / "out") == built_here, log
    assert "submitting it again" in log
    arrays = [len(list(folder.glob("*.pkl"))) for folder in (tmp_path / "work" / "slurm").glob("*-fetch")]
    assert len(arrays) >= 3, "more units than the cluster's longest array holds"


def test_ctrl_c_cancels_the_tasks(build: Build, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "pipeline/build_yfcc15m.py"), "--executor=slurm", *build.arguments]
    command += ["--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    driver = subprocess.Popen(command, env=build.env, stderr=subprocess.PIPE, text=True)
    wait_for("tasks", 60, lambda: len(tasks(build.env, "fetch")) == 4)
    driver.send_signal(signal.SIGINT)
    _, log = driver.communicate(timeout=60)
    assert driver.returncode == 130, log
    wait_for("their end", 60, lambda: not tasks(build.env, "fetch"))
