"""A launch on disk: FOLDER/NAME with launch.json, config-K.json, code/ and logs/.

In: what was asked and submitted. Out: the same, read back by whoever asks for status, logs or cancellation.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.errors import InputError

FILE = "launch.json"
CODE = "code"
LOGS = "logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of a launch."""

    recipe: str
    seed: int
    output: str
    arguments: tuple[str, ...]
    """Of `slip train`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The runs were submitted, for the first time or again."""

    at: str
    """UTC, ISO 8601."""
    host: str
    jobs: tuple[str, ...]
    """Id of each run's job: Slurm's, or that of a process of `host`."""
    words: tuple[str, ...]
    """What followed `slip launch`."""
    settings: dict[str, Any]
    """All settings but the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a launch is."""

    name: str
    executor: str
    working_folder: str
    """Where relative paths of its runs start."""
    python: str
    version: str
    """Of the package."""
    commit: str | None
    dirty: bool | None
    runs: tuple[RunRecord, ...]
    submissions: tuple[Submission, ...] = ()

    @property
    def jobs(self) -> tuple[str, ...]:
        """Jobs of the runs, as last submitted; () before."""
        return self.submissions[-1].jobs if self.submissions else ()


def write_launch(folder: Path, launch: Launch) -> None:
    """Write launch.json."""
    text = json.dumps(dataclasses.asdict(launch), indent=1, ensure_ascii=False) + "\n"
    store.write_bytes(str(folder / FILE), text.encode())


def _build(kind: type[Any], content: dict[str, Any]) -> Any:
    def value(one: Any) -> Any:
        return tuple(one) if isinstance(one, list) else one

    return kind(**{name: value(one) for name, one in content.items()})


def read_launch(folder: Path) -> Launch:
    """Read launch.json; InputError where there is none, or another file."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{path}: no launch there; slip launch status shows those of a --folder")
    try:
        content = json.loads(path.read_bytes())
        content["runs"] = [_build(RunRecord, run) for run in content["runs"]]
        content["submissions"] = [_build(Submission, one) for one in content["submissions"]]
        launch: Launch = _build(Launch, content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: expected what slip launch writes ({error!r:.200}); was it written by another version?"
        ) from error
    return launch


def launches(folder: Path) -> list[Path]:
    """The folders of all launches in a folder, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{FILE}"))
