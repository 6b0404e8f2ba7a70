from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, ShardError
from slip.command import run_verb

ROOT = Path(__file__).resolve().parents[3]


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status"), [(ShardError("broken"), 1), (ConfigError("cannot be"), 2), (KeyboardInterrupt(), 130)]
)
def test_errors_are_one_line_and_a_status(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(lambda: raising(error)) == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_reader_that_has_seen_enough_ends_a_verb_quietly() -> None:
    script = "import sys\nfrom slip.command import run_verb\n"
    script += "def work():\n    for _ in range(100_000):\n        print('line')\n    return 0\nsys.exit(run_verb(work))"
    running = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == "line\n"
    running.stdout.close()
    assert running.wait(60) == 0
    assert running.stderr.read() == ""
    running.stderr.close()
