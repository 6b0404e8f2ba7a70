"""The shared object where the store cannot decide who was first: what was written is read back."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from pipeline import store
from pipeline.lease_objects import Found, SharedObject, open_object

URL = "memory://lease-objects/x/.building.json"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedObject]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield open_object(URL)
    fsspec.filesystem("memory").store.clear()


def test_what_is_there_is_not_created_again(shared: SharedObject) -> None:
    assert shared.read() is None
    tag = shared.create(b"one")
    assert tag is not None
    assert shared.read() == Found(b"one", tag)
    assert shared.create(b"two") is None
    assert store.read_bytes(URL) == b"one"


def test_only_the_version_that_was_seen_is_replaced(shared: SharedObject) -> None:
    old = shared.create(b"one")
    assert old is not None
    new = shared.replace(b"two", old)
    assert new not in {None, old}
    assert shared.replace(b"three", old) is None
    assert store.read_bytes(URL) == b"two"
    shared.remove()
    assert new is not None
    assert shared.replace(b"three", new) is None
    assert shared.read() is None


def test_of_two_that_write_at_once_the_last_one_has_it(shared: SharedObject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: store.write_bytes(URL, b"the other's"))
    assert shared.create(b"mine") is None
    assert store.read_bytes(URL) == b"the other's"
