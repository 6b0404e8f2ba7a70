"""What a site wants of every job: `slurm/site.sh`, or the file that SLIP_SITE names, as submission needs it.

The file is bash, since `slurm/job.sh` reads it in every job, where it also takes options of srun and modules from it.
In: the code's folder. Out: what is needed earlier: the variables sbatch reads (SBATCH_*), and the interpreter with what
goes before it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

_TIMEOUT_S = 60.0
# What the file prints is for people. Words end with NUL, so that they may hold anything.
_SCRIPT = """
site_python=()
source "$1" >&2 || exit
printf '%s\\0' "${#site_python[@]}" "${site_python[@]}"
env -0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A site's settings."""

    path: Path | None = None
    """The file; None where there is none."""
    elsewhere: bool = False
    """SLIP_SITE names it: it is not part of the code, and jobs read it where it is."""
    sbatch: tuple[tuple[str, str], ...] = ()
    """SBATCH_* variables, as they are after the file was read."""
    python: tuple[str, ...] = ()
    """The interpreter, with what goes before it; () = the one in use."""


def read_site(root: Path) -> Site:
    """The settings in the file that SLIP_SITE names, else in slurm/site.sh of the code at `root`."""
    named = os.environ.get("SLIP_SITE")
    path = Path(named).expanduser().absolute() if named else root / "slurm" / "site.sh"
    if not path.is_file():
        if named:
            raise ConfigError(f"SLIP_SITE is {named!r}, but there is no such file; unset it, or name your site's file")
        return Site()
    bash = shutil.which("bash")
    if bash is None:
        raise ConfigError(f"{path}: bash is not on the PATH; it is needed to read the site's settings")
    command = [bash, "--noprofile", "--norc", "-c", _SCRIPT, "slip-site", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{path}: not read to its end in {_TIMEOUT_S:.0f} s; put what takes long into site_setup"
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(f"{path}: bash ended with {done.returncode} while reading it: {said[-300:]}")
    count, *words = os.fsdecode(done.stdout).split("\0")
    python = tuple(words[: int(count)])
    variables = dict(word.split("=", 1) for word in words[int(count) :] if "=" in word)
    sbatch = tuple((name, value) for name, value in sorted(variables.items()) if name.startswith("SBATCH_"))
    return Site(path=path, elsewhere=bool(named), sbatch=sbatch, python=python)
