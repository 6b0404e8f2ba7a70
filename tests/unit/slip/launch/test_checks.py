"""What is refused before anything is submitted, and what is only said."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, ManifestError
from slip.launch import checks
from slip.launch.batch import Place
from slip.launch.checks import (
    check_batch,
    check_cluster,
    check_gpus_here,
    check_nodes,
    check_paths,
    check_runs,
    check_submitit,
    check_time,
    doubt_about,
    file_system_of,
    pick_partitions,
)
from slip.launch.runs import runs_of
from slip.launch.settings import LaunchConfig, parse
from slip.launch.slurm_client import Node, Partition
from tests.unit.slip.launch.fake_slurm import Commands

MAIN = Partition(name="main", is_default=True, limit_min=60)
URGENT = Partition(name="urgent", is_default=False, limit_min=None)
FOUND = {"main": MAIN, "urgent": URGENT}
NODES = [
    *(Node(name=f"gpu{i}", gpus=8, cpus=64, memory_mb=256_000) for i in range(2)),
    *(Node(name=f"cpu{i}", gpus=0, cpus=128, memory_mb=64_000) for i in range(3)),
]


def test_a_job_goes_where_it_is_sent() -> None:
    assert pick_partitions(None, FOUND) == [MAIN]
    assert pick_partitions("urgent,main", FOUND) == [URGENT, MAIN]
    assert pick_partitions(None, {"urgent": URGENT}) == []
    with pytest.raises(ConfigError, match="there is no partition gpu; there is: main, urgent"):
        pick_partitions("main,gpu", FOUND)


def test_the_longest_time_of_the_partitions_is_allowed() -> None:
    check_time(LaunchConfig(time_min=60), [MAIN])
    check_time(LaunchConfig(time_min=61), [MAIN, URGENT])
    with pytest.raises(ConfigError, match="--time-min is 61; partition main allows 60 minutes"):
        check_time(LaunchConfig(time_min=61), [MAIN])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (LaunchConfig(nodes=2, gpus_per_node=8, cpus_per_task=8, mem_gb=256), None),
        (LaunchConfig(nodes=5, gpus_per_node=0, cpus_per_task=64), None),
        (LaunchConfig(nodes=3, gpus_per_node=8, cpus_per_task=8), "--gpus-per-node 8 each: partition p has 2 such"),
        (LaunchConfig(gpus_per_node=16, cpus_per_task=1), "the most a node has is 8 GPUs"),
        (LaunchConfig(gpus_per_node=0, nodes=6, cpus_per_task=1), "has 5 such nodes among 5"),
        (LaunchConfig(gpus_per_node=0, tasks_per_node=4, cpus_per_task=33), "4 ranks x --cpus-per-task 33 = 132 CPUs"),
        (LaunchConfig(gpus_per_node=0, cpus_per_task=1, mem_gb=257), "the most a node has is 256000 MiB of memory"),
    ],
)
def test_nodes_have_what_is_asked_of_each(asked: LaunchConfig, said: str | None) -> None:
    if said is None:
        check_nodes(asked, "p", NODES)
        return
    with pytest.raises(ConfigError) as caught:
        check_nodes(asked, "p", NODES)
    assert said in str(caught.value)


def test_the_cluster_is_asked(slurm: Commands) -> None:
    check_cluster(LaunchConfig(nodes=4), None)
    with pytest.raises(ConfigError, match="partition urgent allows 30 minutes"):
        check_cluster(LaunchConfig(), "urgent")
    with pytest.raises(ConfigError, match="there is no partition gpu"):
        check_cluster(LaunchConfig(), "gpu")
    with pytest.raises(ConfigError, match="partition main has 4 such nodes among 4"):
        check_cluster(LaunchConfig(nodes=5), None)


def test_where_there_is_no_slurm_another_executor_is_named(no_slurm: Commands) -> None:
    with pytest.raises(ConfigError, match=r"sbatch, srun, squeue, sinfo, scancel not found.*--executor local"):
        check_cluster(LaunchConfig(), None)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'yfcc15m-slip\[slurm\]'"):
        check_submitit()


def test_ranks_share_a_batch_equally() -> None:
    (run,) = runs_of(parse(["demo"]))
    check_batch(run, 16)
    with pytest.raises(ConfigError, match=r"--optim.global-batch is 64; it must be a multiple of the 24 ranks"):
        check_batch(run, 24)


MOUNTS = [
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    "30 25 0:27 / /dev/shm rw - tmpfs tmpfs rw",
    r"31 27 0:28 / /sha\040red rw shared:4 - nfs4 server:/x rw",
    r"32 31 0:29 / /sha\040red/sub rw - ext4 /dev/hidden rw",
    r"33 31 0:30 / /sha\040red/sub rw - lustre x rw",
    r"34 27 0:31 / /\303\266 rw - overlay overlay rw",
]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/x", ("/", "ext4")),
        ("/dev/shm/a/b", ("/dev/shm", "tmpfs")),
        ("/dev/shmem", ("/", "ext4")),
        ("/sha red/x", ("/sha red", "nfs4")),
        ("/sha red/sub/x", ("/sha red/sub", "lustre")),
        ("/ö/x", ("/ö", "overlay")),
    ],
)
def test_the_file_system_of_a_path(path: str, found: tuple[str, str]) -> None:
    assert file_system_of(Path(path), MOUNTS) == found


def test_memory_of_one_machine_is_no_place_for_several() -> None:
    with pytest.raises(
        ConfigError, match=r"the output /dev/shm/x is in the memory of this machine \(tmpfs at /dev/shm\)"
    ):
        doubt_about("the output", Path("/dev/shm/x"), MOUNTS, num_nodes=2)
    assert "must run on this one" in str(doubt_about("it", Path("/dev/shm/x"), MOUNTS, num_nodes=1))
    assert "do all nodes see it?" in str(doubt_about("it", Path("/tmp/x"), MOUNTS, num_nodes=2))
    assert "a container's own" in str(doubt_about("it", Path("/ö/x"), MOUNTS, num_nodes=2))
    assert doubt_about("it", Path("/sha red/x"), MOUNTS, num_nodes=2) is None


def test_outputs_are_looked_at_where_the_run_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = f"40 27 0:31 / {here.parent} rw - nfs4 s:/ rw"
    monkeypatch.setattr(checks, "_mounts", lambda: [*MOUNTS, shared])
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    place = Place(folder=Path("/sha red/launches/x"), working_folder=Path("/dev/shm/w"))
    config = LaunchConfig(nodes=2)
    with caplog.at_level(logging.WARNING):
        check_paths(config, place, runs_of(parse(["demo", "--output", "s3://b/x"])))
        check_paths(config, place, runs_of(parse(["demo", "--output", "/sha red/x"])))
        check_paths(config, place, runs_of(parse(["demo", "--output", "file:///sha red/x"])))
    assert not caplog.records
    with pytest.raises(ConfigError, match="the output /dev/shm/w/out is in the memory"):
        check_paths(config, place, runs_of(parse(["demo", "--output", "out"])))
    check_paths(dataclasses.replace(config, nodes=1, executor="local"), place, runs_of(parse(["demo"])))


def test_a_folder_that_slurm_would_read_otherwise_is_refused() -> None:
    with pytest.raises(ConfigError, match="name another --folder"):
        check_paths(LaunchConfig(), Place(folder=Path("/a/100%j/x"), working_folder=Path("/")), ())


def test_a_missing_manifest_is_named(here: Path) -> None:
    place = Place(folder=here / "launches/x", working_folder=here)
    check_runs(LaunchConfig(), place, runs_of(parse(["demo", "--data.manifest", "m.json"])))
    with pytest.raises(ManifestError, match=r"other.json: no manifest there"):
        check_runs(LaunchConfig(), place, runs_of(parse(["demo", "--data.manifest", "m.json", "other.json"])))


def test_gpus_of_this_machine_are_counted(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).write_text("")
    check_gpus_here(2, tmp_path)
    with pytest.raises(ConfigError, match="--gpus-per-node is 3, and this machine has 2 GPUs"):
        check_gpus_here(3, tmp_path)
