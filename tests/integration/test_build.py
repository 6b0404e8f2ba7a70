"""The build against a faulty Flickr and a real S3 server: complete, repeatable, and safe to kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import webdataset

from pipeline.sample.sample import SamplePaths, make_sample
from tests.thorough import times

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 500
SHARD = 60


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SamplePaths:
    return make_sample(tmp_path_factory.mktemp("sample"), num_rows=NUM_ROWS, num_heldout=20)


@pytest.fixture(scope="module")
def flickr(sample: SamplePaths) -> Iterator[str]:
    """Proxy URL of a Flickr of which a quarter misbehaves, a twentieth each in five ways."""
    faults = [f"--{fault}=0.05" for fault in ("dead", "placeholder", "truncated", "flaky", "reset")]
    command = [sys.executable, "-u", str(ROOT / "tests/faults/flickr_stand_in.py"), "--port=0", *faults]
    server = subprocess.Popen([*command, f"--photos={sample.photos}"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield server.stdout.readline().split()[-1]
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def start(sample: SamplePaths, flickr: str, s3_env: dict[str, str]) -> Callable[[str, Path], subprocess.Popen[str]]:
    def start_build(output: str, work: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "pipeline/build_yfcc15m.py"), "--output", output, "--work", str(work)]
        command += ["--metadata", str(sample.metadata), "--subset-list", str(sample.subset_list)]
        command += ["--samples-per-shard", str(SHARD), "--processes", "2", "--threads", "8"]
        env = s3_env | {"http_proxy": flickr, "https_proxy": flickr}
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    return start_build


def finish(build: subprocess.Popen[str]) -> str:
    _, log = build.communicate(timeout=300)
    assert build.returncode == 0, log
    return log


def contents(url: str, env: dict[str, str]) -> dict[str, str]:
    """Digest of every object below the output but the report, which says when pictures came."""
    options = {}
    if url.startswith("s3://"):
        options = {
            "key": env["AWS_ACCESS_KEY_ID"],
            "secret": env["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": env["AWS_ENDPOINT_URL"],
            "skip_instance_cache": True,
        }
    fs, path = fsspec.core.url_to_fs(url, **options)
    names = {Path(name).name: name for name in fs.find(path)}
    assert {"manifest.json", "report.html"} <= names.keys()
    return {
        name: hashlib.sha256(fs.cat_file(where)).hexdigest() for name, where in names.items() if name != "report.html"
    }


@pytest.fixture(scope="module")
def undisturbed(
    start: Callable[[str, Path], subprocess.Popen[str]],
    s3_bucket: str,
    s3_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, dict[str, str]]:
    url, work = f"{s3_bucket}/undisturbed", tmp_path_factory.mktemp("undisturbed")
    finish(start(url, work))
    return url, work, contents(url, s3_env)


def test_every_row_is_a_sample_or_rejected_once(
    undisturbed: tuple[str, Path, dict[str, str]], s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.manifest import load_manifest

    for name, value in s3_env.items():
        monkeypatch.setenv(name, value)
    url, _, _ = undisturbed
    manifest = load_manifest(url)
    funnel = manifest.funnel
    assert funnel["rows"] == NUM_ROWS
    assert funnel["kept"] == manifest.num_samples > 100
    assert funnel["kept"] + sum(funnel["rejected"].values()) == NUM_ROWS
    for reason in ("dead_link", "placeholder", "truncated", "not_in_list"):
        assert funnel["rejected"].get(reason, 0) > 0, f"{reason}: {funnel}"


def test_plain_webdataset_reads_the_shards(
    undisturbed: tuple[str, Path, dict[str, str]], tmp_path: Path, s3_env: dict[str, str]
) -> None:
    url, _, found = undisturbed
    options = {"key": "testkey", "secret": "testsecret", "endpoint_url": s3_env["AWS_ENDPOINT_URL"]}
    fs = fsspec.filesystem("s3", **options)
    shards = sorted(name for name in found if name.endswith(".tar"))
    fs.get([f"{url}/{name}" for name in shards], [str(tmp_path / name) for name in shards])
    dataset = webdataset.WebDataset([str(tmp_path / name) for name in shards], shardshuffle=False).decode("pil")
    samples = list(dataset.to_tuple("jpg", "txt", "json"))
    manifest = json.loads(fs.cat_file(f"{url}/manifest.json"))
    assert len(samples) == manifest["num_samples"]
    for image, text, record in samples:
        assert min(image.size) >= 16
        assert text in (record["title"], record["description"])


def test_a_second_run_changes_nothing(
    start: Callable[[str, Path], subprocess.Popen[str]],
    undisturbed: tuple[str, Path, dict[str, str]],
    s3_env: dict[str, str],
) -> None:
    url, work, before = undisturbed
    finish(start(url, work))
    assert contents(url, s3_env) == before


def files_below(work: Path) -> set[str]:
    """Everything there is now, folders too; what vanishes while it is looked at is left out."""
    return {
        str(Path(folder, name).relative_to(work)) for folder, dirs, names in os.walk(work) for name in (*dirs, *names)
    }


MOMENTS: dict[str, Callable[[set[str]], bool]] = {
    "select": lambda new: any(name.startswith("selection.part") for name in new),
    "fetch begins": lambda new: any(name.startswith("fetched/tmp-") for name in new),
    "fetch writes": lambda new: any(name.startswith("fetched/tmp-") and name.endswith(".tar") for name in new),
    "first unit": lambda new: any(re.fullmatch(r"fetched/\d+\.parquet", name) for name in new),
    "sealing": lambda new: any(name.startswith("sealed/") for name in new),
    "later": lambda new: sum(name.startswith("sealed/") and name.endswith(".json") for name in new) >= 2,
}
"""A build is killed as soon as it has made something new that tells where it is."""


@pytest.mark.parametrize("output", ["local", "s3"])
def test_kill_9_and_rerun_give_the_same_bytes(
    output: str,
    start: Callable[[str, Path], subprocess.Popen[str]],
    undisturbed: tuple[str, Path, dict[str, str]],
    s3_bucket: str,
    s3_env: dict[str, str],
    tmp_path: Path,
) -> None:
    """One build killed at six moments (into a folder usually at three), each time continued by the same command."""
    moments = list(MOMENTS.items())[times(0, 1) :: times(1, 2)] if output == "local" else list(MOMENTS.items())
    work = tmp_path / "work"
    url = f"{s3_bucket}/killed" if output == "s3" else str(tmp_path / "out")
    kills = 0
    for moment, reached in moments:
        before = files_below(work)
        build = start(url, work)
        end = time.monotonic() + 120
        while build.poll() is None and not reached(files_below(work) - before):
            assert time.monotonic() < end, f"never reached: {moment}"
            time.sleep(0.01)
        kills += build.poll() is None
        os.kill(build.pid, signal.SIGKILL)
        build.communicate()
    assert kills >= len(moments) - 2, "most builds ended before they were killed"
    log = finish(start(url, work))
    assert contents(url, s3_env) == undisturbed[2], log


def test_kills_at_random_moments(
    start: Callable[[str, Path], subprocess.Popen[str]],
    undisturbed: tuple[str, Path, dict[str, str]],
    s3_bucket: str,
    s3_env: dict[str, str],
    tmp_path: Path,
) -> None:
    """Builds are killed again and again, wherever they are; each one that gets through has the same bytes."""
    random_ = random.Random(20)
    kills = rounds = 0
    wanted = times(20, 5)
    while kills < wanted:
        rounds += 1
        url, work = f"{s3_bucket}/random-{rounds}", tmp_path / f"work-{rounds}"
        while True:
            build = start(url, work)
            # Starting takes a second or so; what follows of a build is longer than the longest wait.
            try:
                build.wait(timeout=random_.uniform(0.5, 5.0))
            except subprocess.TimeoutExpired:
                os.kill(build.pid, signal.SIGKILL)
                build.communicate()
                kills += 1
            else:
                log = finish(build)
                break
            if kills >= wanted:
                log = finish(start(url, work))
                break
        assert contents(url, s3_env) == undisturbed[2], log


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "credentials"),
        ({"output": "s3://no-such-bucket/x"}, "bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9"),
    ],
)
def test_a_bucket_that_cannot_be_written_is_one_clear_error(
    change: dict[str, str],
    expected: str,
    sample: SamplePaths,
    s3_env: dict[str, str],
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    output = change.get("output", f"{s3_bucket}/refused")
    command = [sys.executable, str(ROOT / "pipeline/build_yfcc15m.py"), "--output", output, "--work", str(tmp_path)]
    command += ["--metadata", str(sample.metadata), "--subset-list", str(sample.subset_list)]
    done = subprocess.run(command, env=s3_env | change, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert expected in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "selection").exists(), "the store is tried before any work is done"


def test_processes_that_used_s3_end_in_peace(s3_bucket: str, s3_env: dict[str, str]) -> None:
    """Requests made through an event loop in another thread aborted one process in four at its end."""
    script = (
        f"from pipeline import store; store.write_bytes('{s3_bucket}/end', b'x'); store.read_bytes('{s3_bucket}/end')"
    )
    codes = [subprocess.run([sys.executable, "-c", script], env=s3_env, cwd=ROOT).returncode for _ in range(12)]
    assert codes == [0] * 12


def test_tars_written_by_the_build_end_properly(
    undisturbed: tuple[str, Path, dict[str, str]], s3_env: dict[str, str]
) -> None:
    import tarfile

    url, _, found = undisturbed
    fs = fsspec.filesystem("s3", key="testkey", secret="testsecret", endpoint_url=s3_env["AWS_ENDPOINT_URL"])
    for name in sorted(found):
        if name.endswith(".tar"):
            data = fs.cat_file(f"{url}/{name}")
            assert data.endswith(b"\0" * 1024)
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                assert {m.mtime for m in tar.getmembers()} == {0}
