from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from pipeline.errors import StoreError


@pytest.fixture(params=["local", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}/store"


@pytest.mark.parametrize(
    ("base", "names", "expected"),
    [
        ("s3://b", ["k"], "s3://b/k"),
        ("s3://b/x/", ["y", "z.tar"], "s3://b/x/y/z.tar"),
        ("memory://", ["a"], "memory://a"),
        ("file:///", ["a"], "file:///a"),
        ("/", ["a"], "/a"),
        ("a/b", ["c"], "a/b/c"),
        ("a//", ["c"], "a/c"),
    ],
)
def test_join(base: str, names: list[str], expected: str) -> None:
    assert store.join(base, *names) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/x/a.tar", "s3://b/x"),
        ("s3://b/a.tar", "s3://b"),
        ("s3://b", "s3://b"),
        ("/x/a.tar", "/x"),
        ("/a.tar", "/"),
        ("a.tar", "."),
        ("x/y/", "x"),
        ("file:///a", "file:///"),
    ],
)
def test_parent(url: str, expected: str) -> None:
    assert store.parent(url) == expected


def test_is_local() -> None:
    assert [store.is_local(url) for url in ("a/b", "/a", "file:///a", "s3://b/k", "memory://x")] == [True] * 3 + [
        False
    ] * 2


def test_what_is_written_can_be_read(base: str, tmp_path: Path) -> None:
    data = os.urandom(10_000)
    (tmp_path / "source").write_bytes(data)
    store.check_writable(base)
    assert store.list_names(base) == []
    store.write_bytes(store.join(base, "deep", "a.bin"), data)
    store.put_file(tmp_path / "source", store.join(base, "deep", "b.bin"))
    for name in ("a.bin", "b.bin"):
        url = store.join(base, "deep", name)
        assert store.read_bytes(url) == data
        assert store.read_range(url, 9_000, 1_000) == data[9_000:]
        assert store.read_range(url, 17, 0) == b""
        assert store.size(url) == 10_000
        assert store.exists(url)
    assert store.list_names(base) == ["deep"]
    assert store.list_names(store.join(base, "deep")) == ["a.bin", "b.bin"]
    assert store.exists(store.join(base, "deep"))
    assert store.size(store.join(base, "deep")) is None
    store.write_bytes(store.join(base, "deep", "a.bin"), b"new")
    assert store.read_bytes(store.join(base, "deep", "a.bin")) == b"new"
    store.delete(store.join(base, "deep", "a.bin"))
    store.delete(store.join(base, "deep", "a.bin"))
    assert store.list_names(store.join(base, "deep")) == ["b.bin"]


def test_what_is_missing_says_so(base: str) -> None:
    url = store.join(base, "none.bin")
    assert not store.exists(url)
    assert store.size(url) is None
    assert store.list_names(url) == []
    with pytest.raises(StoreError, match=r"none\.bin: cannot read.* does not exist"):
        store.read_bytes(url)
    with pytest.raises(StoreError, match=r"none\.bin: cannot read 5 bytes at offset 3.*does not exist"):
        store.read_range(url, 3, 5)


@pytest.mark.parametrize("start", [8, 10, 1000])
def test_a_range_past_the_end_is_an_error_at_once(base: str, start: int) -> None:
    url = store.join(base, "a.bin")
    store.write_bytes(url, b"0123456789")
    with pytest.raises(StoreError, match=rf"a\.bin: cannot read 5 bytes at offset {start}: .*the file has 10"):
        store.read_range(url, start, 5)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "a.bin")
    store.write_bytes(url, b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writes: list[Callable[[], None]] = [
        lambda: store.write_bytes(url, b"new"),
        lambda: store.put_file(url, str(tmp_path / "b.bin")),
    ]
    for write in writes:
        with pytest.raises(StoreError, match=r"\.bin: cannot write: No space left on device; the disk is full"):
            write()
    assert os.listdir(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_writer_killed_half_way_is_never_visible_and_cleaned_up_by_the_next(tmp_path: Path) -> None:
    url = str(tmp_path / "a.bin")
    store.write_bytes(url, b"old")
    program = (
        "import os, signal\nfrom pipeline import store\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"store.write_bytes({url!r}, b'new')\n"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == -9
    assert store.read_bytes(url) == b"old"
    assert len(os.listdir(tmp_path)) == 2
    store.write_bytes(url, b"newer")
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failed_remote_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"memory://{uuid.uuid4().hex}"
    url = store.join(base, "a.bin")
    store.write_bytes(url, b"old")
    filesystem, _ = store.filesystem(url)

    def torn(path: str, value: bytes, **kwargs: Any) -> None:
        with filesystem.open(path, "wb") as file:
            file.write(value[:1])
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(filesystem, "pipe_file", torn)
    with pytest.raises(StoreError, match="cannot be reached"):
        store.write_bytes(url, b"new")
    assert store.read_bytes(url) == b"old"
    assert store.list_names(base) == ["a.bin"]


def test_a_copy_that_ends_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    url = f"memory://{uuid.uuid4().hex}/a.bin"
    filesystem, _ = store.filesystem(url)
    monkeypatch.setattr(filesystem, "put_file", lambda local, path: filesystem.pipe_file(path, b"012"))
    with pytest.raises(StoreError, match="has 3 bytes after writing 10"):
        store.put_file(tmp_path / "source", url)


@pytest.mark.parametrize("act", ["write_bytes", "check_writable", "put_file"])
def test_a_folder_that_is_a_file(tmp_path: Path, act: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    url = str(tmp_path / "file" / "below")
    actions: dict[str, Any] = {
        "write_bytes": lambda: store.write_bytes(url, b"x"),
        "check_writable": lambda: store.check_writable(url),
        "put_file": lambda: store.put_file(tmp_path / "file", url),
    }
    with pytest.raises(StoreError, match=rf"{url}: cannot write: .*a file stands where a folder is needed"):
        actions[act]()
    assert os.listdir(tmp_path) == ["file"]


def test_a_local_source_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: cannot read"):
        store.put_file(tmp_path / "nowhere", str(tmp_path / "b"))


def test_unknown_kinds_of_url() -> None:
    with pytest.raises(StoreError, match=r"^nosuch://x/y: cannot open .*Protocol not known"):
        store.read_bytes("nosuch://x/y")
    with pytest.raises(StoreError, match=r"the bucket's name is missing"):
        store.read_bytes("s3://")


def test_bugs_are_not_dressed_as_store_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.bin"
    filesystem, _ = store.filesystem(url)

    def bug(path: str) -> bytes:
        raise TypeError("a bug")

    monkeypatch.setattr(filesystem, "cat_file", bug)
    with pytest.raises(TypeError):
        store.read_bytes(url)


def test_many_threads_write_the_same_file(tmp_path: Path) -> None:
    url = str(tmp_path / "a.bin")
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=store.write_bytes, args=(url, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read_bytes(url) in contents
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("is_other_disk", [False, True])
def test_a_moved_file_is_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_other_disk: bool) -> None:
    source, target = tmp_path / "a.part", tmp_path / "new" / "a.tar"
    source.write_bytes(b"content")
    replace = os.replace

    def refusing(source_path: Path, target_path: Path) -> None:
        if is_other_disk and source_path == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source_path, target_path)

    monkeypatch.setattr(os, "replace", refusing)
    store.move_file(source, str(target))
    assert target.read_bytes() == b"content"
    assert [path.name for path in tmp_path.rglob("a.*")] == ["a.tar"]
    source.write_bytes(b"more")
    store.move_file(source, "memory://moved/a.tar")
    assert store.read_bytes("memory://moved/a.tar") == b"more"
    assert not source.exists()
    with pytest.raises(StoreError, match=r"b\.tar: cannot write"):
        store.move_file(source, str(tmp_path / "b.tar"))
