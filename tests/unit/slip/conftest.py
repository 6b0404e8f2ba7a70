from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


@pytest.fixture(params=["local", "file", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    names = {"local": str(tmp_path / "run"), "file": f"file://{tmp_path}/run", "memory": f"memory://{tmp_path}"}
    return names[request.param]
