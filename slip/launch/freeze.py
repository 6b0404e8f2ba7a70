"""The code a launch runs: a copy, made once, so that no later edit or checkout of the repository reaches a running job.

In: the checkout that the running package comes from. Out: a folder with what jobs import and source, and what git says
of it.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import slip
from pipeline.errors import ConfigError, StoreError

_PARTS = ("pipeline", "slip", "slurm")
_FILES = ("pyproject.toml",)
COMMIT = "COMMIT"
"""File in the copy with the commit it was made from."""
_GIT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What git says of the code that was copied; None where it says nothing."""

    commit: str | None
    dirty: bool | None
    """Whether it differs from the commit."""


def checkout() -> Path:
    """The checkout the running package comes from; ConfigError where it is not one."""
    root = Path(slip.__file__).resolve().parents[1]
    if not (root / "slurm" / "job.sh").is_file():
        raise ConfigError(
            f"there is no slurm/job.sh in {root}, beside the package slip: launching needs a checkout of the "
            "repository (git clone, then pip install -e .), not an installed wheel"
        )
    return root


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def origin_of(root: Path) -> Origin:
    """Commit of a checkout, and whether the code in it was changed since."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return Origin(commit=None, dirty=None)
    changed = _git(root, "status", "--porcelain", "--", *_PARTS, *_FILES)
    return Origin(commit=commit, dirty=None if changed is None else bool(changed))


def freeze(root: Path, target: Path, origin: Origin) -> None:
    """Copy the code to `target`, compiled parts included, unless it is there; it appears only when it is whole."""
    if target.exists():
        return
    part = target.with_name(f"{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in _PARTS:
            shutil.copytree(root / name, part / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            if (root / name).exists():
                shutil.copy2(root / name, part / name)
        if origin.commit is not None:
            (part / COMMIT).write_text(origin.commit + (" with changes\n" if origin.dirty else "\n"), encoding="utf-8")
        part.rename(target)
    except (OSError, shutil.Error) as error:
        raise StoreError(f"{target}: the code could not be copied from {root}: {error}") from error
