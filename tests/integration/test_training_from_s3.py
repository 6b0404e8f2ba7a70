"""Two processes stream from a real S3 server, are killed, resume: the loss curve is the undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.sample.sample import make_sample

ROOT = Path(__file__).resolve().parents[2]
STEPS = 30
FLAGS = [
    *("--optim.global-batch", "16", "--optim.epochs", "6", "--optim.warmup-epochs", "1"),
    *("--checkpoint-every", "5", "--log-every", "1", "--max-steps", str(STEPS), "--eval.zeroshot", "None"),
    *("--data.workers", "1", "--model.image-size", "32", "--model.ssl-hidden", "64", "--model.ssl-dim", "32"),
]


@pytest.fixture(scope="module")
def manifest_url(s3_bucket: str, s3_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of some hundred samples on S3, from the embedded sample's pictures as a local table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("pictures")
    paths = make_sample(folder / "sample", num_rows=150, num_heldout=10)
    pictures = sorted(str(p) for p in paths.photos.rglob("*.jpg"))
    table = pa.table({"path": pictures, "caption": [f"A photograph of thing number {i}" for i in range(len(pictures))]})
    pq.write_table(table, folder / "own.parquet")
    url = f"{s3_bucket}/own"
    command = [sys.executable, str(ROOT / "pipeline/build_yfcc15m.py"), "--dataset", "local", "--output", url]
    command += ["--metadata", str(folder / "own.parquet"), "--samples-per-shard", "37", "--work", str(folder / "work")]
    subprocess.run(command, env=s3_env, check=True, timeout=120)
    return f"{url}/manifest.json"


def start(manifest_url: str, output: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "slip.train",
    ]
    command += ["demo", "--data.manifest", manifest_url, "--output", str(output), *FLAGS]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def losses(output: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    curve = {r["step"]: r["loss"] for r in records if "loss" in r}
    assert len(curve) == sum("loss" in r for r in records), "a step stands twice in the metrics"
    return curve


def test_killed_and_resumed_from_s3(manifest_url: str, s3_env: dict[str, str], tmp_path: Path) -> None:
    undisturbed = start(manifest_url, tmp_path / "a", s3_env)
    _, log = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, log
    expected = losses(tmp_path / "a")
    assert sorted(expected) == list(range(1, STEPS + 1))

    killed = start(manifest_url, tmp_path / "b", s3_env)
    end = time.monotonic() + 200
    while not list((tmp_path / "b").glob("checkpoints/step-*0010.pt")):
        assert killed.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    resumed = start(manifest_url, tmp_path / "b", s3_env)
    _, log = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, log
    assert "resum" in log.lower()
    assert losses(tmp_path / "b") == pytest.approx(expected, rel=1e-5)
