"""Two builders on one S3 output at once: one builds, the other is told by whom, and nothing is mixed."""

from __future__ import annotations

import hashlib
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.lease_objects import SharedObject, open_object

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[[str, str], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(s3_env: dict[str, str], s3_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a build of the same local pictures, with an output and a work folder of this name."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = []
    for i in range(120):
        file = io.BytesIO()
        Image.effect_noise((64, 48), 20 + i).save(file, "JPEG")
        pictures.append(str(folder / f"{i}.jpg"))
        Path(pictures[-1]).write_bytes(file.getvalue())
    captions = [f"A picture of noise, number {i}" for i in range(len(pictures))]
    pq.write_table(pa.table({"path": pictures, "caption": captions}), folder / "own.parquet")
    works = tmp_path_factory.mktemp("works")

    def start_build(output: str, work: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "pipeline/build_yfcc15m.py"), "--dataset", "local"]
        command += ["--metadata", str(folder / "own.parquet"), "--samples-per-shard", "10", "--processes", "1"]
        command += ["--output", f"{s3_bucket}/two-builders/{output}", "--work", str(works / work)]
        return subprocess.Popen(command, env=s3_env, stderr=subprocess.PIPE, text=True)

    return start_build


def bucket(env: dict[str, str]) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem(
        "s3", key="testkey", secret="testsecret", endpoint_url=env["AWS_ENDPOINT_URL"], skip_instance_cache=True
    )


def names(url: str, env: dict[str, str]) -> set[str]:
    """Names of the objects below the output."""
    return {path.rpartition("/")[2] for path in bucket(env).find(url)}


def objects(url: str, env: dict[str, str]) -> dict[str, str]:
    """Digest of every object below the output, the report left out."""
    fs = bucket(env)
    paths = {path.rpartition("/")[2]: path for path in fs.find(url)}
    return {
        name: hashlib.sha256(fs.cat_file(path)).hexdigest() for name, path in paths.items() if name != "report.html"
    }


def end(build: subprocess.Popen[str]) -> str:
    return build.communicate(timeout=120)[1]


def wait_until_held(url: str, env: dict[str, str], build: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while ".building.json" not in names(url, env):
        assert build.poll() is None, end(build)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(start: Start, s3_bucket: str, s3_env: dict[str, str]) -> dict[str, str]:
    """What one builder makes."""
    build = start("alone", "alone")
    log = end(build)
    assert build.returncode == 0, log
    found = objects(f"{s3_bucket}/two-builders/alone", s3_env)
    assert "manifest.json" in found
    assert ".building.json" not in found
    return found


def test_of_two_builders_started_at_once_one_builds(
    start: Start, alone: dict[str, str], s3_bucket: str, s3_env: dict[str, str]
) -> None:
    builds = [start("shared", "first"), start("shared", "second")]
    logs = [end(build) for build in builds]
    refused, built = sorted(zip((build.returncode for build in builds), logs, strict=True), reverse=True)
    assert (refused[0], built[0]) == (2, 0), logs
    # The slower one may come when the other has finished.
    assert "another build writes to this output" in refused[1] or "holds a sealed data set" in refused[1]
    assert objects(f"{s3_bucket}/two-builders/shared", s3_env) == alone


def test_a_killed_builders_output_is_its_own_until_it_resumes(
    start: Start, alone: dict[str, str], s3_bucket: str, s3_env: dict[str, str]
) -> None:
    url = f"{s3_bucket}/two-builders/killed"
    build = start("killed", "mine")
    wait_until_held(url, s3_env, build)
    build.send_signal(signal.SIGKILL)
    end(build)
    assert ".building.json" in names(url, s3_env)
    other = start("killed", "another")
    log = end(other)
    assert other.returncode == 2, log
    assert f"process {build.pid} on" in log
    assert "works0/mine" in log
    build = start("killed", "mine")
    log = end(build)
    assert build.returncode == 0, log
    assert objects(url, s3_env) == alone


def race(contenders: list[SharedObject], seen: str | None) -> list[int]:
    """Who of them wrote, all trying at the same moment."""
    start_line = threading.Barrier(len(contenders))
    winners: list[int] = []

    def run(number: int) -> None:
        data, mine = str(number).encode(), contenders[number]
        start_line.wait(10)
        if (mine.create(data) if seen is None else mine.replace(data, seen)) is not None:
            winners.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(contenders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


@pytest.mark.parametrize("doing", ["create", "replace"])
def test_the_server_lets_one_of_many_win(
    doing: str, s3_bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_env.items():
        monkeypatch.setenv(name, value)
    for turn in range(10):
        url = f"{s3_bucket}/two-builders/race/{doing}-{turn}"
        contenders = [open_object(url) for _ in range(8)]
        winners = race(contenders, contenders[0].create(b"seen by all") if doing == "replace" else None)
        assert len(winners) == 1
        found = contenders[0].read()
        assert found is not None
        assert found.data == str(winners[0]).encode()
