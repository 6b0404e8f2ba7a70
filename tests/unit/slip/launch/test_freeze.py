"""The copy of the code that jobs run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import slip
from pipeline.errors import ConfigError, StoreError
from slip.launch.freeze import Origin, checkout, freeze, origin_of

NOT_KNOWN = Origin(commit=None, dirty=None)


@pytest.fixture
def root(here: Path) -> Path:
    """A small checkout."""
    root = here / "my röpo"
    for name in ("pipeline/a.py", "slip/data/b.py", "slip/data/_views.so", "slip/__pycache__/b.pyc", "slurm/job.sh"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "pyproject.toml").write_text("")
    (root / "data").mkdir()
    (root / "slurm/job.sh").chmod(0o755)
    return root


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_code_is_copied_with_compiled_parts_and_without_caches(root: Path, here: Path) -> None:
    target = here / "läunches/x/code"
    freeze(root, target, Origin(commit="abc", dirty=True))
    assert names(target) == {
        *("pipeline/a.py", "slip/data/b.py", "slip/data/_views.so", "slurm/job.sh", "pyproject.toml", "COMMIT"),
    }
    assert (target / "COMMIT").read_text() == "abc with changes\n"
    assert (target / "slurm/job.sh").stat().st_mode & 0o111
    assert not (target.parent / "code.part").exists()


def test_what_is_frozen_stays(root: Path, here: Path) -> None:
    freeze(root, here / "code", NOT_KNOWN)
    (root / "pipeline/a.py").write_text("edited")
    freeze(root, here / "code", NOT_KNOWN)
    assert (here / "code/pipeline/a.py").read_text() == "pipeline/a.py"


def test_a_copy_that_was_broken_off_is_begun_again(root: Path, here: Path) -> None:
    (here / "code.part/slip").mkdir(parents=True)
    (here / "code.part/slip/stale.py").write_text("")
    freeze(root, here / "code", NOT_KNOWN)
    assert "slip/stale.py" not in names(here / "code")


def test_a_copy_that_fails_is_not_there(root: Path, here: Path) -> None:
    (root / "slip/gone.py").symlink_to("nowhere")
    with pytest.raises(StoreError, match="could not be copied"):
        freeze(root, here / "code", NOT_KNOWN)
    assert not (here / "code").exists()


def test_git_is_asked_for_the_commit_and_for_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert origin_of(root) == NOT_KNOWN

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", str(root), *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (root / "data/samples").write_text("not code")
    assert origin_of(root) == Origin(commit=commit, dirty=False)
    (root / "slip/new.py").write_text("")
    assert origin_of(root) == Origin(commit=commit, dirty=True)
    monkeypatch.setenv("PATH", "/nowhere")
    assert origin_of(root) == NOT_KNOWN


def test_an_installed_wheel_cannot_be_frozen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slip, "__file__", str(root / "slip/__init__.py"))
    assert checkout() == root
    (root / "slurm/job.sh").unlink()
    with pytest.raises(ConfigError, match=r"no slurm/job.sh in .*röpo, .*needs a checkout"):
        checkout()
