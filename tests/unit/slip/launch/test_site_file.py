"""The site's file, read by bash as the job reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from slip.launch import site_file
from slip.launch.site_file import Site, read_site

CHECKOUT = Path(__file__).resolve().parents[4]


def code(here: Path, text: str) -> Path:
    (here / "slurm").mkdir()
    (here / "slurm/site.sh").write_text(text)
    return here


def test_variables_of_sbatch_and_the_interpreter_are_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    text = """echo welcome to the cluster
    export SBATCH_PARTITION="gpu long" SBATCH_COMMENT=$'two\\nlines'
    export NOT_FOR_SBATCH=1
    SBATCH_QOS=not_exported
    site_python=(apptainer exec --nv "/images/a b.sif" python)
    site_setup() { exit 9; }
    """
    root = code(here, text)
    assert read_site(root) == Site(
        path=root / "slurm/site.sh",
        sbatch=(("SBATCH_ACCOUNT", "mine"), ("SBATCH_COMMENT", "two\nlines"), ("SBATCH_PARTITION", "gpu long")),
        python=("apptainer", "exec", "--nv", "/images/a b.sif", "python"),
    )


def test_slip_site_names_another(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = code(here, "export SBATCH_PARTITION=one")
    (here / "my site").write_text("export SBATCH_PARTITION=two")
    monkeypatch.setenv("SLIP_SITE", "my site")
    found = read_site(root)
    assert (found.path, found.elsewhere, dict(found.sbatch)) == (here / "my site", True, {"SBATCH_PARTITION": "two"})


def test_no_file_is_no_settings(here: Path) -> None:
    assert read_site(here) == Site()


def test_ours_says_nothing_as_it_is(here: Path) -> None:
    found = read_site(CHECKOUT)
    assert (found.sbatch, found.python) == ((), ())


def test_what_cannot_be_read_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIP_SITE", "none.sh")
    with pytest.raises(ConfigError, match=r"SLIP_SITE is 'none.sh', but there is no such file"):
        read_site(here)
    monkeypatch.delenv("SLIP_SITE")
    root = code(here, "echo broken >&2; exit 3")
    with pytest.raises(ConfigError, match=r"site.sh: bash ended with 3 while reading it: broken"):
        read_site(root)


def test_a_file_that_never_ends_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_file, "_TIMEOUT_S", 0.2)
    with pytest.raises(ConfigError, match="put what takes long into site_setup"):
        read_site(code(here, "exec sleep 600"))
