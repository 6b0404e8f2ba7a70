"""A folder to launch from, and a cluster that is only a few scripts on the PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.unit.slip.launch.fake_slurm import Commands

NEEDED = ("bash", "env", "cat", "sleep", "git")
"""Programs that stay on the PATH."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a manifest for --data.manifest m.json; the environment is that of no job."""
    folder = tmp_path / "a földer"
    folder.mkdir()
    (folder / "m.json").write_text("{}")
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "SLIP_", "MASTER_")):
            monkeypatch.delenv(name)
    return folder


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A PATH without Slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return Commands(folder)


@pytest.fixture
def slurm(no_slurm: Commands) -> Commands:
    """A cluster of four nodes with 8 GPUs, 96 CPUs and 512 GB, whose next job is 77; nothing in the queue."""
    nodes = "".join(f"node{i}|gpu:h100:8(S:0-1)|96|512000\n" for i in range(1, 5))
    no_slurm.add("sinfo")
    (no_slurm.folder / "sinfo.nodes").write_text(nodes)
    (no_slurm.folder / "sinfo.partitions").write_text("main|main*|1-00:00:00\nurgent|urgent|30:00\n")
    (no_slurm.folder / "sinfo").write_text(
        f'#!/bin/bash\nif [[ "$*" == *-N* ]]; then cat "{no_slurm.folder}/sinfo.nodes"\n'
        f'else cat "{no_slurm.folder}/sinfo.partitions"; fi\n'
    )
    no_slurm.add("sbatch", "Submitted batch job 77\n")
    for name in ("srun", "squeue", "sacct", "scancel"):
        no_slurm.add(name)
    return no_slurm
