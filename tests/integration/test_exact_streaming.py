"""Exact, elastic, self-healing streaming from a real S3 server through a proxy that misbehaves.

Equal batches in every layout; many `kill -9` with changing world size, after which the ledger equals the manifest for
both epochs; a flipped bit is named.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from pipeline.manifest import load_manifest
from slip.data.plan import Plan
from tests.faults.s3_faults import Faults
from tests.faults.s3_proxy import FaultProxy
from tests.integration.warm_ranks import start_warm
from tests.many_samples import write_many
from tests.ports import free_port
from tests.thorough import times

ROOT = Path(__file__).resolve().parents[2]
# 50,101 samples, which no batch divides; shards of very different sizes.
COUNTS = (9000, 1, 7000, 130, 12000, 6000, 4000, 9970, 2000)
GLOBAL_BATCH = 240
LAYOUTS = [f"{world_size}x{workers}" for world_size in (1, 2, 3, 4) for workers in (0, 1, 2, 4)]
FAULTS = Faults(seed=5, resets=0.02, truncated=0.02, flipped=0.005, errors=0.02, burst=3)


def put(folder: Path, url: str, env: dict[str, str]) -> str:
    """Copy a folder to S3; the manifest's URL."""
    copy = "import sys, pathlib; from pipeline import store\n"
    copy += "for p in sorted(pathlib.Path(sys.argv[1]).iterdir()): store.put_file(p, f'{sys.argv[2]}/{p.name}')"
    subprocess.run([sys.executable, "-c", copy, str(folder), url], cwd=ROOT, env=env, check=True, timeout=120)
    return f"{url}/manifest.json"


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint, FAULTS) as running:
        yield running


@pytest.fixture(scope="module")
def faulty_env(proxy: FaultProxy, s3_env: dict[str, str]) -> dict[str, str]:
    """Environment in which S3 is reached through the proxy."""
    return s3_env | {"AWS_ENDPOINT_URL": proxy.url}


@pytest.fixture(scope="module")
def manifest_url(s3_bucket: str, s3_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("many") / "shards"
    write_many(folder, COUNTS)
    return put(folder, f"{s3_bucket}/many", s3_env)


def batch_checksums(
    manifest: str, first: int, stop: int, layouts: Sequence[str], env: dict[str, str]
) -> dict[str, list[str]]:
    command = [sys.executable, "-m", "tests.integration.batch_checksums", manifest, str(first), str(stop), *layouts]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, list[str]] = json.loads(ended.stdout)
    return found


def test_batches_are_equal_in_every_layout_before_and_after_resuming(
    manifest_url: str, s3_env: dict[str, str], faulty_env: dict[str, str]
) -> None:
    # Without faults, one rank, no threads: what all others must give. The epoch ends in step 1043.
    expected = batch_checksums(manifest_url, 1041, 1047, ["1x0"], s3_env)["1x0"]
    assert len(set(expected)) == 6
    assert batch_checksums(manifest_url, 1041, 1047, LAYOUTS, faulty_env) == dict.fromkeys(LAYOUTS, expected)
    for cut, layout in ((1043, "4x2"), (1045, "3x1"), (1046, "2x4")):
        assert batch_checksums(manifest_url, cut, 1047, [layout], faulty_env)[layout] == expected[cut - 1041 :]


def train_arguments(manifest: str, output: Path, *flags: str) -> list[str]:
    command = ["demo", "--data.manifest", manifest, "--output", str(output)]
    command += ["--objective.name", "simclr", "--eval.zeroshot", "None", "--model.image-size", "8"]
    command += ["--model.ssl-hidden", "16", "--model.ssl-dim", "8", "--optim.global-batch", str(GLOBAL_BATCH)]
    command += ["--optim.epochs", "2", "--optim.warmup-epochs", "0.1", "--data.workers", "1", "--log-every", "1"]
    return [*command, "--checkpoint-every", "3", "--ledger", *flags]


def train_command(manifest: str, output: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "slip.train", *train_arguments(manifest, output, *flags)]


def rank_envs(world_size: int, env: dict[str, str]) -> list[dict[str, str]]:
    """The environments that a launcher gives the ranks of a run."""
    own = env | {"OMP_NUM_THREADS": "1"}
    if world_size == 1:
        return [own]
    own |= {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [own | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def newest_step(output: Path) -> int:
    return max((int(path.stem.removeprefix("step-")) for path in output.glob("checkpoints/step-*.pt")), default=0)


def kill_all(ranks: list[BaseProcess]) -> None:
    for process in ranks:
        process.kill()
    for process in ranks:
        process.join()


def ledger(verb: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slip", "ledger", verb, *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_kills_and_changing_world_sizes_use_every_sample_once_in_both_epochs(
    manifest_url: str, proxy: FaultProxy, faulty_env: dict[str, str], s3_env: dict[str, str], tmp_path: Path
) -> None:
    draw = random.Random(20)
    output, log = tmp_path / "run", tmp_path / "log"
    arguments = train_arguments(manifest_url, output)
    kills = times(20, 6)
    for number in range(kills):
        ranks = start_warm(arguments, rank_envs((1, 4, 2, 3)[number % 4], faulty_env), log)
        before, end = newest_step(output), time.monotonic() + 120
        # Four in five die at a random moment of their training, the others while they start.
        while number % 5 and newest_step(output) <= before:
            assert all(process.is_alive() for process in ranks), log.read_text()[-5000:]
            assert time.monotonic() < end, log.read_text()[-5000:]
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.0))
        # Now and then one rank goes first and the others find out.
        if number % 3 == 2:
            ranks[-1].kill()
            time.sleep(0.05)
        kill_all(ranks)
    command = train_command(manifest_url, output, "--checkpoint-every", "50")
    with log.open("ab") as file:
        last = [subprocess.Popen(command, cwd=ROOT, env=env, stderr=file) for env in rank_envs(2, faulty_env)]
    assert [process.wait(400) for process in last] == [0, 0], log.read_text()[-5000:]
    num_steps = -(-2 * sum(COUNTS) // GLOBAL_BATCH)
    assert newest_step(output) == num_steps
    assert log.read_text().count("resuming from") >= kills // 2
    counts = proxy.counts()
    assert all(counts[kind] for kind in ("resets", "truncated", "flipped", "errors")), counts

    proof = ledger("verify", str(output), "--json", env=s3_env)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    epochs = json.loads(proof.stdout)["epochs"]
    assert [(e["epoch"], e["exactly_once"], e["missed"], e["doubled"], e["replaced"]) for e in epochs[:2]] == [
        (0, sum(COUNTS), 0, 0, 0),
        (1, sum(COUNTS), 0, 0, 0),
    ]
    # And they are the plan's batches, computed here without any of it.
    plan = Plan(counts=(COUNTS,), seed=0, global_batch=GLOBAL_BATCH, shuffle_window=128)
    told = ledger("checksum", str(output), "--json", env=s3_env)
    steps = {line["step"]: line["sha256"] for line in map(json.loads, told.stdout.splitlines()) if "step" in line}
    assert sorted(steps) == list(range(num_steps))
    expected = {
        step: hashlib.sha256(np.sort(plan.batch(step * GLOBAL_BATCH)).astype("<i8").tobytes()).hexdigest()
        for step in range(0, num_steps, 29)
    }
    assert {step: steps[step] for step in expected} == expected


def test_a_flipped_bit_is_named_and_a_tolerated_one_is_in_the_ledger(
    s3_bucket: str, s3_env: dict[str, str], tmp_path: Path
) -> None:
    manifest = write_many(tmp_path / "shards", (300, 200, 460))
    data = bytearray((tmp_path / "shards/00001.tar").read_bytes())
    place = data.index(b"00000350.jpg") + 600  # in the picture of sample 350
    data[place] ^= 1 << 3
    (tmp_path / "shards/00001.tar").write_bytes(data)
    url = put(tmp_path / "shards", f"{s3_bucket}/flipped", s3_env)
    environment = s3_env | {"OMP_NUM_THREADS": "1"}
    stopped = subprocess.run(
        train_command(url, tmp_path / "a"), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
    assert "/flipped/00001.tar: sample 00000350 at byte" in stopped.stderr.splitlines()[-1]
    assert "--data.max-damaged allows 0" in stopped.stderr

    flags = ["--data.max-damaged", "1"]
    tolerant = subprocess.run(
        train_command(url, tmp_path / "b", *flags),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert tolerant.returncode == 0, tolerant.stderr
    proof = ledger("verify", str(tmp_path / "b"), "--json", env=s3_env)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    found = json.loads(proof.stdout)
    assert [e["replaced"] for e in found["epochs"]] == [1, 1]
    assert manifest.num_samples == 4 * GLOBAL_BATCH
    text = ledger("verify", str(tmp_path / "b"), env=s3_env).stdout
    assert "00000350" in text


def test_the_cache_is_shared_by_runs_and_spares_the_server(
    manifest_url: str, s3_env: dict[str, str], s3_endpoint: str, tmp_path: Path
) -> None:
    flags = ["--data.cache", str(tmp_path / "cache"), "--data.cache-gb", "1", "--max-steps", "3"]
    with FaultProxy(s3_endpoint, Faults(seed=1)) as proxy:
        env = s3_env | {"AWS_ENDPOINT_URL": proxy.url, "OMP_NUM_THREADS": "1"}
        asked: list[int] = []
        for name in ("a", "b"):
            before = proxy.counts()["gets"]
            command = train_command(manifest_url, tmp_path / name, *flags)
            ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
            assert ended.returncode == 0, ended.stderr
            asked.append(proxy.counts()["gets"] - before)
    # The second run asks for the manifest and the indexes only.
    assert asked[1] <= 2 + len(COUNTS) < asked[0]
    curves = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("a", "b")
    ]
    assert curves[0] == curves[1]
    assert os.path.getsize(tmp_path / "a/checkpoints/step-00000003.pt") > 0


def test_tars_without_a_manifest_are_indexed_or_read_as_they_are(
    manifest_url: str, s3_endpoint: str, s3_env: dict[str, str], tmp_path: Path
) -> None:
    pattern = manifest_url.replace("manifest.json", "{00003..00005}.tar")
    command = [sys.executable, "-m", "slip", "index", pattern, "--output", str(tmp_path / "indexed")]
    # No flipped bits: who makes the first digest of a tar cannot know that it came damaged.
    with FaultProxy(s3_endpoint, replace(FAULTS, flipped=0.0, resets=0.2, truncated=0.2)) as proxy:
        env = s3_env | {"AWS_ENDPOINT_URL": proxy.url}
        indexing = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert indexing.returncode == 0, indexing.stderr
    theirs, ours = load_manifest(str(tmp_path / "indexed")), tmp_path / "ours"
    assert [shard.num_samples for shard in theirs.shards] == list(COUNTS[3:6])
    # The tars' digests are those that were noted when they were sealed.
    sealed = write_many(ours, COUNTS).shards[3:6]
    assert [(shard.sha256, shard.num_bytes) for shard in theirs.shards] == [(s.sha256, s.num_bytes) for s in sealed]
    for manifest, name in ((str(tmp_path / "indexed"), "indexed"), (pattern, "unindexed")):
        command = train_command(manifest, tmp_path / name, "--max-steps", "2")
        if name == "unindexed":
            command.remove("--ledger")
            command += ["--data.samples-per-epoch", "18130"]
        ended = subprocess.run(
            command, cwd=ROOT, env=s3_env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
        assert "done: 2 steps, 480 samples" in ended.stderr
        assert ("slip index" in ended.stderr) == (name == "unindexed")
