"""Real services for the integration tests: Ceph's S3 gateway, a Slurm cluster, a faulty photograph server.

On a laptop a missing service skips the tests that need it; under CI (CI=true) it fails them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CEPH_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")
SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch", "srun", "sacct")
SBIN = ":/usr/sbin:/sbin"


def require(programs: tuple[str, ...], how: str) -> None:
    missing = [p for p in programs if shutil.which(p, path=os.environ["PATH"] + SBIN) is None]
    if missing:
        message = f"not installed: {', '.join(missing)}; {how}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def wait_for_http(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def run_in(folder: Path, *command: str) -> str:
    """Run Python in `folder` with the checkout importable, as after installation; its log."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, stderr=subprocess.PIPE, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running S3 server; the keys are testkey / testsecret."""
    require(CEPH_PROGRAMS, "apt-get install radosgw ceph-mon ceph-osd ceph-mgr")
    folder = tmp_path_factory.mktemp("ceph")
    port = free_port(2)
    started = subprocess.run(
        [str(ROOT / "tests/s3/start_ceph.sh"), str(folder), str(port)],
        # Pools are made one by one, each in a round of the monitor's. With rounds of a second, the default, it takes
        # 19 s to the first object, with these 6.
        env=os.environ | {"CEPH_ARGS": "--paxos-propose-interval=0.05"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    pids = [int(pid) for pid in started.stdout.split()]
    try:
        wait_for_http(f"http://127.0.0.1:{port}/", 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_env(s3_endpoint: str) -> dict[str, str]:
    """Environment in which any S3 client reaches the server."""
    return os.environ | {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "127.0.0.1,localhost",
    }


@pytest.fixture(scope="session")
def s3_bucket(s3_env: dict[str, str]) -> str:
    """URL of an empty bucket on the server."""
    make = "import botocore.session as b; b.get_session().create_client('s3').create_bucket(Bucket='yfcc')"
    subprocess.run([sys.executable, "-c", make], env=s3_env, check=True, timeout=60)
    return "s3://yfcc"


def running_cluster() -> Iterator[dict[str, str]]:
    """Start a cluster, hand out its environment, end it."""
    cluster = str(ROOT / "tests/cluster/cluster.sh")
    # Not below pytest's folder: munge refuses a socket that others cannot reach.
    folder = tempfile.mkdtemp(prefix="slurm-")
    os.chmod(folder, 0o755)
    env = os.environ | {
        "SLURM_TEST_DIR": folder,
        "SLURM_TEST_ARRAY": "4",
        "SLURM_TEST_GPUS": "2",
        # Between SIGTERM and SIGKILL a run writes a checkpoint, beside other tests.
        "SLURM_TEST_KILLWAIT": "15",
        "SLURM_TEST_PORT": str(free_port(8)),
    }
    subprocess.run([cluster, "start"], env=env, check=True, timeout=120)
    try:
        yield env | {"SLURM_CONF": env["SLURM_TEST_DIR"] + "/slurm.conf"}
    finally:
        subprocess.run([cluster, "stop"], env=env, check=True, timeout=60)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def slurm_env() -> Iterator[dict[str, str]]:
    """Environment in which clients reach a cluster: four nodes of two pretended GPUs, four tasks to an array."""
    require(SLURM_PROGRAMS, "tests/cluster/cluster.sh install")
    # Two clusters would take each other's node names out of /etc/hosts; the second one waits for the first to end.
    with (Path(tempfile.gettempdir()) / "slurm-test.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield from running_cluster()


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBuild:
    """What a newcomer has after the first of the README's commands."""

    folder: Path
    """Where it was run; empty before."""
    log: str


@pytest.fixture(scope="session")
def first_build(tmp_path_factory: pytest.TempPathFactory) -> FirstBuild:
    """The build without arguments, in an empty folder; who asks for it adds to the folder and changes nothing in it."""
    folder = tmp_path_factory.mktemp("newcomer")
    log = run_in(folder, str(ROOT / "pipeline/build_yfcc15m.py"))
    return FirstBuild(folder=folder, log=log)
