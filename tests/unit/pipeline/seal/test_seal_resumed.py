from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipeline.errors import ShardError
from pipeline.fetch.fetched import fetched_tar
from pipeline.seal import seal
from tests.fetched_units import build_units, contents, seal_all, without_select


@pytest.fixture(autouse=True)
def _finished_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    without_select(monkeypatch)


def test_a_unit_with_a_fetched_tar_is_sealed_again(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    tar = fetched_tar(work, 1).read_bytes()
    seal_all(config, work)
    before = contents(tmp_path / "out")
    fetched_tar(work, 1).write_bytes(tar)
    assert not seal.is_sealed(config, work, 1)
    assert seal.units_to_build(config, work, range(3)) == [1]
    seal_all(config, work)
    assert contents(tmp_path / "out") == before
    assert seal.is_sealed(config, work, 1)


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"a.tar.part-{socket.gethostname()}-99999999").write_bytes(b"x")
    (tmp_path / f"a.tar.part-{socket.gethostname()}-{os.getppid()}").write_bytes(b"x")
    (tmp_path / "a.tar.part-elsewhere-99999999").write_bytes(b"x")
    with seal.local_part(tmp_path, "a.tar") as part:
        part.write_bytes(b"x")
        names = {path.name.rsplit("part-", 1)[1] for path in tmp_path.iterdir()}
    assert names == {
        f"{socket.gethostname()}-{os.getpid()}",
        f"{socket.gethostname()}-{os.getppid()}",
        "elsewhere-99999999",
    }
    assert not part.exists()


def test_the_noted_entry_must_be_readable(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    seal_all(config, work)
    path = work / "sealed" / "00000.json"
    for content in (b"", b"[]", b'{"shard": {"name": "x"}, "licenses": []}', b'{"empty": true}'):
        path.write_bytes(content)
        with pytest.raises(ShardError, match=r"00000\.json: not the entry of a sealed unit .*delete it"):
            seal.is_sealed(config, work, 0)
