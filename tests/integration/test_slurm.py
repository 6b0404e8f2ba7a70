"""`sbatch slurm/train_slip.sh` on a real cluster: two nodes train together and end with the result of one process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.sample.sample import make_sample

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    *("--optim.global-batch", "16", "--optim.epochs", "2", "--max-steps", "6", "--log-every", "1"),
    *("--eval.zeroshot", "None", "--data.workers", "1", "--model.image-size", "32", "--model.ssl-hidden", "64"),
]


def wait_for_job(job: str, env: dict[str, str], seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = subprocess.run(
            ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"],
            env=env,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
        if state not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}:
            return state
        time.sleep(1)
    return f"still {state} after {seconds:.0f} s"


def losses(output: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in records if "loss" in r}


def test_sbatch_trains_on_two_nodes(slurm_env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "a folder with späces"
    paths = make_sample(folder / "sample", num_rows=80, num_heldout=10)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = sorted(str(p) for p in paths.photos.rglob("*.jpg"))
    captions = [f"A photograph of thing number {i}" for i in range(len(pictures))]
    pq.write_table(pa.table({"path": pictures, "caption": captions}), folder / "own.parquet")
    build = [
        sys.executable,
        str(ROOT / "pipeline/build_yfcc15m.py"),
        "--dataset",
        "local",
        "--output",
        str(folder / "shards"),
    ]
    subprocess.run([*build, "--metadata", str(folder / "own.parquet")], check=True, timeout=120)
    flags = ["demo", "--data.manifest", str(folder / "shards/manifest.json"), *FLAGS]

    alone = [sys.executable, "-m", "slip.train", *flags, "--output", str(folder / "alone")]
    subprocess.run(alone, cwd=ROOT, check=True, timeout=200)

    submit = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]
    submit += [
        "--time=5",
        f"--output={folder}/job.log",
        str(ROOT / "slurm/train_slip.sh"),
        *flags,
        "--output",
        str(folder / "job"),
    ]
    env = slurm_env | {"SLIP_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        submit, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()
    state = wait_for_job(job, slurm_env, 240)
    log = (folder / "job.log").read_text()
    assert state == "COMPLETED", log
    assert "2 ranks on node[1-2]" in log
    assert losses(folder / "job") == pytest.approx(losses(folder / "alone"), rel=1e-4)
