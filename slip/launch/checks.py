"""What is checked before anything is submitted, so that a mistake is known now and not when the job starts.

In: settings, runs, and what the cluster says of itself. Out: nothing, or the error that says what to change. Rules are
pure functions of what was found; `check_launch` asks and applies them.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline import store
from pipeline.errors import ConfigError
from slip.launch.batch import Place
from slip.launch.runs import Run
from slip.launch.settings import LaunchConfig
from slip.launch.slurm_client import Node, Partition, nodes_of, partitions
from slip.train import check_manifests

logger = logging.getLogger(__name__)

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_MEASURES = ("gpus", "cpus", "memory_mb")


def check_submitit() -> None:
    """Whether the package that submits is installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError("launching needs a package: pip install 'yfcc15m-slip[slurm]'") from None


def check_clients() -> None:
    """Whether Slurm's commands are here."""
    missing = [name for name in ("sbatch", "srun", "squeue", "sinfo", "scancel") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not found: this is no machine of a Slurm cluster; launch from one that is, or here "
            "with --executor local"
        )


def check_batch(run: Run, ranks: int) -> None:
    """Whether the ranks can share a batch equally."""
    batch = run.config.optim.global_batch
    if batch % ranks:
        raise ConfigError(
            f"{run.recipe}: --optim.global-batch is {batch}; it must be a multiple of the {ranks} ranks (--nodes x "
            "--tasks-per-node, one for each GPU unless given)"
        )


def pick_partitions(named: str | None, found: Mapping[str, Partition]) -> list[Partition]:
    """The partitions a job may go to: those named (with commas between), else the default; [] where there is none."""
    if named is None:
        return [partition for partition in found.values() if partition.is_default]
    unknown = [name for name in named.split(",") if name not in found]
    if unknown:
        raise ConfigError(f"there is no partition {', '.join(unknown)}; there is: {', '.join(sorted(found))}")
    return [found[name] for name in named.split(",")]


def check_time(config: LaunchConfig, allowed: Sequence[Partition]) -> None:
    """Whether one of the partitions lets a job take so long."""
    limits = [partition.limit_min for partition in allowed]
    longest = max((limit for limit in limits if limit is not None), default=None)
    if longest is not None and None not in limits and config.time_min > longest:
        names = ", ".join(partition.name for partition in allowed)
        raise ConfigError(
            f"--time-min is {config.time_min}; partition {names} allows {longest:g} minutes. A run that needs more "
            "begins again by itself"
        )


def check_nodes(config: LaunchConfig, names: str, nodes: Sequence[Node]) -> None:
    """Whether the partition has as many nodes with what each must have."""
    wanted = {
        "gpus": config.gpus_per_node,
        "cpus": config.ranks_per_node * config.cpus_per_task,
        "memory_mb": round((config.mem_gb or 0) * 1000),
    }
    options = {
        "gpus": f"--gpus-per-node {config.gpus_per_node}",
        "cpus": f"{config.ranks_per_node} ranks x --cpus-per-task {config.cpus_per_task} = {wanted['cpus']} CPUs",
        "memory_mb": f"--mem-gb {config.mem_gb or 0:g}",
    }
    units = {"gpus": "GPUs", "cpus": "CPUs", "memory_mb": "MiB of memory"}
    for measure in _MEASURES:
        enough = [node for node in nodes if getattr(node, measure) >= wanted[measure]]
        if len(enough) < config.nodes:
            most = max((getattr(node, measure) for node in nodes), default=0)
            raise ConfigError(
                f"--nodes {config.nodes} with {options[measure]} each: partition {names} has {len(enough)} such nodes "
                f"among {len(nodes)}, and the most a node has is {most} {units[measure]}; ask for less, or name "
                "another --partition"
            )


def file_system_of(path: Path, mounts: Iterable[str]) -> tuple[str, str]:
    """Mount point and type of what holds a path, from the lines of /proc/self/mountinfo (man 5 proc).

    ("/dev/shm/x", ["30 25 0:27 / /dev/shm rw shared:5 - tmpfs tmpfs rw"]) -> ("/dev/shm", "tmpfs")
    """
    best = ("", "")
    for line in mounts:
        before, _, after = line.partition(" - ")
        # Spaces and the like are written as octal numbers there.
        point = before.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
        # Of two mounts at one point the later hides the earlier.
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, after.split(" ")[0])
    return best


def doubt_about(what: str, path: Path, mounts: Sequence[str], *, num_nodes: int) -> str | None:
    """What is to be said about a path that other nodes may not see; ConfigError where they cannot."""
    point, kind = file_system_of(path, mounts)
    if kind in _IN_MEMORY:
        text = f"{what} {path} is in the memory of this machine ({kind} at {point}), which no other node sees"
        if num_nodes > 1:
            raise ConfigError(f"{text}; name a folder on a file system that all nodes share")
        return f"{text}; the job must run on this one"
    private = [folder for folder in ("/tmp", "/var/tmp", tempfile.gettempdir()) if path.is_relative_to(folder)]
    if private:
        return f"{what} {path} is below {private[0]}; do all nodes see it?"
    if kind == "overlay":
        return f"{what} {path} is on {kind} ({point}), a container's own file system; do all nodes see it?"
    return None


def _mounts() -> list[str]:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def check_paths(config: LaunchConfig, place: Place, runs: Sequence[Run]) -> None:
    """Whether the launch's folder and outputs can be where they are."""
    if "%" in str(place.folder) or "\n" in str(place.folder):
        raise ConfigError(f"{place.folder}: Slurm gives % and line breaks a meaning in paths; name another --folder")
    if config.executor != "slurm":
        return
    mounts = _mounts()
    outputs = [run.config.output.removeprefix("file://") for run in runs if store.is_local(run.config.output)]
    doubts = [doubt_about("the launch's folder", place.folder.resolve(), mounts, num_nodes=config.nodes)]
    for output in outputs:
        path = (place.working_folder / output).resolve()
        doubts.append(doubt_about("the output", path, mounts, num_nodes=config.nodes))
    # One is enough to make people look.
    first = next(filter(None, doubts), None)
    if first is not None:
        logger.warning("%s", first)


def check_gpus_here(wanted: int, device_folder: Path = Path("/dev")) -> None:
    """Whether this machine has the GPUs that local ranks are to use."""
    found = sum(1 for path in device_folder.glob("nvidia[0-9]*") if path.name[6:].isdigit())
    if found < wanted:
        raise ConfigError(
            f"--gpus-per-node is {wanted}, and this machine has {found} GPUs (/dev/nvidia0 ...); ask for as many, or "
            "with --gpus-per-node 0 for ranks on CPUs"
        )


def check_cluster(config: LaunchConfig, partition: str | None) -> None:
    """Whether the cluster has what is asked for; it is asked."""
    check_clients()
    allowed = pick_partitions(partition, partitions())
    if not allowed:
        logger.info("the cluster has no default partition that sinfo shows: what a node has was not checked")
        return
    check_time(config, allowed)
    names = ",".join(one.name for one in allowed)
    check_nodes(config, names, nodes_of(names))


def check_runs(config: LaunchConfig, place: Place, runs: Sequence[Run]) -> None:
    """What can be checked without the cluster."""
    check_paths(config, place, runs)
    for run in runs:
        check_batch(run, config.ranks)
        check_manifests(run.config)
