from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline import connections, s3
from tests.faults.broken_bodies import Answer, BrokenBodies


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No AWS settings but the test's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(connections, "_buckets", {})
    monkeypatch.setattr(s3, "_users", set())
    return monkeypatch


@pytest.fixture
def serve(aws: pytest.MonkeyPatch) -> Iterator[Callable[..., BrokenBodies]]:
    """Starts an S3 server whose every object has the given bytes and whose answers break off as told."""
    with ExitStack() as running:

        def start(data: bytes, answers: Iterable[Answer] = ()) -> BrokenBodies:
            server = running.enter_context(BrokenBodies(data, answers))
            aws.setenv("AWS_ENDPOINT_URL", server.url)
            aws.setenv("no_proxy", "127.0.0.1")
            return server

        yield start
