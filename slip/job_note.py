"""How far a batch job's run has got, in a small file on the job's first node that outlives the run's processes.

A process that is killed cannot say in which step; whoever decides whether its job begins again (`slip.requeue`) has to
know. Rank 0 runs on the node of the batch script, which names the file in SLIP_JOB_NOTE; without that nothing is
written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "SLIP_JOB_NOTE"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNote:
    """What the file says."""

    output: str
    """Folder or URL of the run."""
    step: int
    """Optimizer steps done; -1 while the run has not begun."""


def read_note(env: Mapping[str, str]) -> JobNote | None:
    """The note of this job; None when no rank has got as far as to write one."""
    try:
        return JobNote(**json.loads(Path(env[VARIABLE]).read_bytes()))
    except (KeyError, OSError, ValueError, TypeError):
        return None


class NoteWriter:
    """Keeps the note up to date; one small write a step, to a file of this node."""

    def __init__(self, output: str, *, enabled: bool = True) -> None:
        path = os.environ.get(VARIABLE) if enabled else None
        self._output = output
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) if path else None
        self._length = 0
        self.at(-1)

    def at(self, step: int) -> None:
        """So many steps are done."""
        if self._file is None:
            return
        text = json.dumps(asdict(JobNote(output=self._output, step=step))).encode()
        # In one write, so that a process killed at any moment leaves a whole note; shorter ones are filled up.
        self._length = max(self._length, len(text))
        os.pwrite(self._file, text.ljust(self._length), 0)

    def close(self) -> None:
        """No more notes; the file stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
