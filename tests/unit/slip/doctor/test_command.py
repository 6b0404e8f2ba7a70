"""`slip doctor` on one rank: table, exit status, JSON, nothing left behind, and no torch before it is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slip.doctor import examine as examine_module
from slip.doctor.command import main, parse
from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from tests.tiny_data import write_shards

LIMITS = ["--min-free-gb", "0", "--min-tmp-gb", "0", "--min-memory-gb", "0", "--min-write-mb-s", "0"]
SIZES = ["--write-mb", "1", "--read-mb", "1"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SLURM") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURMD_NODENAME", "node7")


def rows(out: str) -> dict[str, str]:
    """Check -> level."""
    return {line.split()[1]: line.split()[0] for line in out.splitlines() if line.startswith(("BAD", "WARN", "OK"))}


def test_one_rank_checks_what_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_shards(tmp_path / "d", [3])
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert main(["--manifest", manifest, "--output", str(tmp_path / "runs/b"), *LIMITS, *SIZES]) == 0
    out = capsys.readouterr().out
    fine = ("ranks", "versions", "output", "space", "clock", "manifest", "reading", "checkpoint")
    assert rows(out) == dict.fromkeys(fine, "OK") | {"all-reduce": "WARN"}
    assert out.splitlines()[0].startswith("WARN  all-reduce  node7")
    assert out.splitlines()[-1] == "0 BAD, 1 WARN, 8 OK: a run can start; read the warnings first"
    assert "\033" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_bad_rows_come_first_and_give_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "runs"), "--json"]
    assert main(["--manifest", str(tmp_path / "none"), *output, *LIMITS, *SIZES]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["bad"] == 1
    first = content["findings"][0]
    assert (first["level"], first["check"], first["where"]) == ("BAD", "manifest", ["node7"])
    assert "there is no manifest" in first["found"]
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_is_a_row_and_the_others_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> dict[str, str]:
        raise ZeroDivisionError("measuring")

    def judge(told: list[Answer[Any]], config: DoctorConfig) -> list[Finding]:
        raise KeyError("judging")

    monkeypatch.setattr(examine_module, "versions", measure)
    monkeypatch.setattr(examine_module, "judge_space", judge)
    assert main(["--output", str(tmp_path / "runs"), *LIMITS, *SIZES]) == 1
    out = capsys.readouterr().out
    found = rows(out)
    assert (found["versions"], found["space"], found["checkpoint"]) == ("BAD", "BAD", "OK")
    assert "ZeroDivisionError: measuring" in out
    assert "KeyError: 'judging'" in out


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    ended: list[int] = []

    def interrupted(work: Callable[[], object]) -> None:
        seen.extend(path.name for path in (tmp_path / "runs").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(examine_module, "space_facts", lambda *args, **kwargs: interrupted(lambda: None))
    monkeypatch.setattr(os, "_exit", ended.append)
    assert main(["--output", str(tmp_path / "runs"), *SIZES]) == 130
    assert seen[0].startswith(".slip-doctor-")
    assert list(tmp_path.iterdir()) == []
    assert ended == [130]


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    shown = capsys.readouterr().out
    for name in DoctorConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')} " in shown


@pytest.mark.parametrize(
    ("words", "text"), [(["--timeout-s", "0"], "--timeout-s is 0"), (["--outputt", "x"], "outputt")]
)
def test_mistakes_are_usage_errors(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(words)
    except SystemExit as left:
        status = int(str(left.code))
    assert status == 2
    assert text in capfd.readouterr().err


def test_settings_are_read_without_torch() -> None:
    code = "import sys; from slip.doctor.command import parse; parse([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
