"""One builder per output, in a local folder (a lock) and in an object store (memory:// stands in for it here)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline import lease, lease_objects, store
from pipeline.errors import ConfigError, StoreError
from pipeline.lease import LEASE_NAME, check_holder, hold

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.lease import hold
with hold(sys.argv[1], Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(lease_objects, "SETTLE_S", 0.0)
    monkeypatch.setattr(lease, "WATCH_S", 0.0)
    yield "memory://lease/out"
    fsspec.filesystem("memory").store.clear()


def work_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def note(url: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(store.read_bytes(store.join(url, LEASE_NAME)))
    return found


def age(url: str, seconds: float) -> None:
    """Make the holder's last sign of life older."""
    found = note(url)
    seen = found["seen"]
    assert isinstance(seen, float)
    store.write_bytes(store.join(url, LEASE_NAME), json.dumps(found | {"seen": seen - seconds}).encode())


def test_local_second_builder_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    output, work = str(tmp_path / "out"), work_folder(tmp_path, "work")
    with hold(output, work) as held:
        held.check()
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on .*--work {work}") as refused:
            hold(output, work_folder(tmp_path, "other")).__enter__()
        assert output in str(refused.value)
    assert os.listdir(output) == []
    with hold(output, tmp_path / "other") as held:
        held.check()


def test_local_output_of_a_killed_builder_is_free_at_once(tmp_path: Path) -> None:
    output, work = str(tmp_path / "out"), work_folder(tmp_path, "work")
    command = [sys.executable, "-c", HOLD, output, str(work)]
    builder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {builder.pid}"):
        hold(output, work_folder(tmp_path, "other")).__enter__()
    builder.kill()
    builder.wait()
    with hold(output, tmp_path / "other"):
        pass


def test_local_lease_is_released_when_the_build_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(str(tmp_path / "out"), tmp_path):
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "out") == []


def test_local_output_deleted_under_a_build_stops_it(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with hold(str(output), tmp_path) as held:
        (output / LEASE_NAME).unlink()
        with pytest.raises(StoreError, match="was the output deleted"):
            held.check()
        with hold(str(output), work_folder(tmp_path, "other")), pytest.raises(StoreError, match="no longer"):
            held.check()


def test_remote_second_builder_is_refused_and_the_object_goes_at_the_end(remote: str, tmp_path: Path) -> None:
    one, two = work_folder(tmp_path, "one"), work_folder(tmp_path, "two")
    with hold(remote, one) as held:
        held.check()
        check_holder(remote, one)
        with pytest.raises(StoreError, match=re.escape(f"--work {one}")):
            check_holder(remote, two)
        with pytest.raises(ConfigError, match=re.escape(f"--work {one}")):
            hold(remote, two).__enter__()
        held.check()
    assert store.list_names(remote) == []
    with pytest.raises(StoreError, match="has ended"):
        check_holder(remote, one)
    with hold(remote, two):
        pass


def test_remote_killed_builder_is_followed_by_the_same_work_folder_at_once(remote: str, tmp_path: Path) -> None:
    one = work_folder(tmp_path, "one")
    hold(remote, one).__enter__()  # and never left
    with hold(remote, one) as held:
        held.check()
    assert store.list_names(remote) == []


def test_remote_abandoned_lease_is_taken_over_and_the_first_builder_notices(remote: str, tmp_path: Path) -> None:
    one, two = work_folder(tmp_path, "one"), work_folder(tmp_path, "two")
    with hold(remote, one) as first:
        age(remote, lease.STALE_S - 10)
        with pytest.raises(ConfigError):
            hold(remote, two).__enter__()
        age(remote, 20)
        with hold(remote, two) as second:
            lease_of(first)._renew()
            with pytest.raises(StoreError, match=re.escape(f"taken over by {note(remote)['user']}'s process")):
                first.check()
            second.check()
            assert note(remote)["work"] == str(two)
    assert store.list_names(remote) == []


def test_remote_builder_that_is_alive_is_not_taken_for_dead_because_of_its_clock(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = work_folder(tmp_path, "one"), work_folder(tmp_path, "two")
    with hold(remote, one) as held:
        age(remote, 1000)
        monkeypatch.setattr("time.sleep", lambda seconds: age(remote, -30))  # it renews while it is watched
        with pytest.raises(ConfigError, match="another build"):
            hold(remote, two).__enter__()
        monkeypatch.undo()
        assert note(remote)["work"] == str(one)
        del held


def lease_of(held: lease.Lease) -> lease._ObjectLease:
    assert isinstance(held, lease._ObjectLease)
    return held


def test_remote_lease_is_renewed(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    renewed = threading.Event()
    put = lease_objects.SharedObject.replace

    def replace(self: lease_objects.SharedObject, data: bytes, tag: str) -> str | None:
        renewed.set()
        return put(self, data, tag)

    monkeypatch.setattr(lease_objects.SharedObject, "replace", replace)
    with hold(remote, tmp_path) as held:
        before = note(remote)
        assert renewed.wait(10)
        lease_of(held)._renew()
        after = note(remote)
        assert after["seen"] != before["seen"]
        assert after | {"seen": 0} == before | {"seen": 0}
        held.check()


def test_remote_answer_that_got_lost_is_not_a_lost_lease(remote: str, tmp_path: Path) -> None:
    with hold(remote, tmp_path) as held:
        age(remote, 1)  # as if a renewal had come through and its answer had not
        held.check()
        lease_of(held)._renew()
        held.check()


def test_remote_check_renews_what_has_not_been_renewed_for_long(remote: str, tmp_path: Path) -> None:
    """A machine that slept may have been given up; the thread has not run yet."""
    with hold(remote, tmp_path) as held:
        store.delete(store.join(remote, LEASE_NAME))
        held.check()
        lease_of(held)._renewed -= lease.STALE_S
        with pytest.raises(StoreError, match="was deleted"):
            held.check()


def test_remote_note_that_is_none_is_not_overwritten(remote: str, tmp_path: Path) -> None:
    url = store.join(remote, LEASE_NAME)
    store.write_bytes(url, b"my notes")
    with pytest.raises(StoreError, match="delete it if nobody is building"):
        hold(remote, tmp_path).__enter__()
    assert store.read_bytes(url) == b"my notes"
