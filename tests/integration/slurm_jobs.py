"""Training jobs on a cluster whose nodes are all on this machine: watch them, freeze them, rob them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tests/cluster/cluster.sh"
# Ample: a rank imports for five CPU-seconds, beside other tests.
PATIENCE_S = 180.0


def ask(env: dict[str, str], *command: str) -> str:
    """What a client of Slurm prints."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def wait_for(
    what: str,
    is_so: Callable[[], bool],
    *,
    said: Callable[[], str],
    seconds: float = PATIENCE_S,
    pause_s: float = 0.05,
) -> None:
    """Until it is so; `said` tells what to show when that takes too long."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{said()}"
        time.sleep(pause_s)


def _environment(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def has_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that could not take it yet, being stopped."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return False
    masks = re.findall(r"^(?:Sig|Shd)Pnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not Path(f"/proc/{pid}").exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A batch job that trains."""

    number: str
    output: Path
    log: Path
    env: dict[str, str]

    def said(self) -> str:
        """The job's log."""
        return self.log.read_text() if self.log.exists() else "(no log)"

    def fact(self, name: str) -> str:
        """One of the facts of `scontrol show job`."""
        line = ask(self.env, "scontrol", "show", "job", "-o", self.number)
        found = re.search(rf"(?:^|\s){name}=(\S*)", line)
        assert found is not None, line
        return found.group(1)

    @property
    def starts(self) -> int:
        """How often the batch script has begun."""
        return len(re.findall(r"^job \d+, start \d+, on ", self.said(), re.MULTILINE))

    @property
    def trained(self) -> int:
        """How often training has begun, whatever came of it."""
        return self.said().count("MFU is the share of")

    @property
    def step(self) -> int:
        """Steps recorded."""
        path = self.output / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        for line in reversed(lines):
            with suppress(ValueError):  # being written
                return int(json.loads(line)["step"])
        return 0

    def ranks(self) -> dict[int, int]:
        """Process id of each rank at work."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if b"python" not in (folder / "cmdline").read_bytes():
                    continue
                env = _environment(int(folder.name))
                if env.get("SLURM_JOB_ID") == self.number and "SLURM_STEP_ID" in env:
                    found[int(env["SLURM_PROCID"])] = int(folder.name)
        return found

    def node_of(self, rank: int) -> str:
        """Name of the node a rank is on."""
        return _environment(self.ranks()[rank])["SLURMD_NODENAME"]

    def step_number(self) -> int:
        """Slurm's number of the step that the ranks are."""
        return int(_environment(self.ranks()[0])["SLURM_STEP_ID"])

    def wait_until_trained(self, times: int, step: int) -> None:
        """Until training has begun so often, or oftener, and has done so many steps."""

        def is_so() -> bool:
            assert not self.said().rstrip().endswith((": done", "does not begin again", "the job ends")), self.said()
            return self.trained >= times and self.step >= step

        wait_for(f"training begun {times} times, step {step}", is_so, said=self.said)

    def wait_for_start(self, times: int) -> None:
        """Until the batch script has begun so often."""
        wait_for(f"{times} starts", lambda: self.starts >= times, said=self.said)

    def wait_for_end(self) -> str:
        """Slurm's word for how it ended."""
        working = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "PREEMPTED", "NODE_FAIL"}
        wait_for("the end", lambda: self.fact("JobState") not in working, said=self.said, pause_s=0.5)
        return self.fact("JobState")

    @contextmanager
    def frozen(self, *ranks: int) -> Iterator[dict[int, int]]:
        """These ranks (all of them) stand still meanwhile: a very long step."""
        found = {rank: pid for rank, pid in self.ranks().items() if not ranks or rank in ranks}
        for pid in found.values():
            os.kill(pid, signal.SIGSTOP)
        try:
            yield found
        finally:
            for pid in found.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def submit(
    env: dict[str, str],
    folder: Path,
    name: str,
    train: Sequence[str],
    *,
    options: Sequence[str],
    script: Path | None = None,
) -> Job:
    """`sbatch slurm/train_slip.sh`; the run's output is FOLDER/NAME."""
    command = ["sbatch", "--parsable", f"--job-name={name}", f"--output={folder}/{name}.log"]
    command += ["--time=60", *options, str(ROOT / "slurm/train_slip.sh"), *train]
    job_env = env | {"SLIP_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", str(folder / name)], cwd=ROOT, env=job_env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return Job(number=done.stdout.strip(), output=folder / name, log=folder / f"{name}.log", env=env)


def cluster(env: dict[str, str], verb: str, node: str) -> None:
    """`cluster.sh kill-node N` and the like."""
    subprocess.run([str(CLUSTER), verb, node.removeprefix("node")], env=env, check=True, timeout=90)
