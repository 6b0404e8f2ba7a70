from __future__ import annotations

import logging
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, StoreError
from slip.data import cache_space
from slip.data.cache import BlockCache
from slip.data.cache_space import Space

URL = "s3://bucket/a/00000.tar"


@pytest.fixture(autouse=True, scope="module")
def any_disk() -> Iterator[None]:
    """The tests keep a few kilobytes, on however full a disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_space, "MIN_FREE_BYTES", 0)
        patch.setattr(cache_space, "MIN_FREE_FRACTION", 0.0)
        yield


def content(num_bytes: int, salt: int = 1) -> bytes:
    """Bytes of which no two stretches are alike."""
    return b"".join(((salt << 24) + i).to_bytes(4, "big") for i in range(num_bytes // 4 + 1))[:num_bytes]


class Remote:
    """An object in a store, and what was fetched of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def fetch(self, start: int, length: int) -> memoryview:
        assert start >= 0
        assert 0 < length <= len(self.data) - start
        self.asked.append((start, length))
        return memoryview(self.data)[start : start + length]

    def read(self, cache: BlockCache, start: int, length: int, url: str = URL, digest: str = "d") -> bytes:
        return bytes(cache.read(url, digest, len(self.data), start, length, self.fetch))


def kept(folder: Path) -> dict[str, int]:
    """Blocks and parts in a cache folder, with the size of each."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.glob("??/*/*")}


def counted(folder: Path) -> int:
    return int((folder / "lock").read_bytes())


@given(data=st.data(), block_bytes=st.integers(1, 70), num_bytes=st.integers(1, 300), capacity_blocks=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_bytes_are_exact_and_bounded(
    data: st.DataObject, block_bytes: int, num_bytes: int, capacity_blocks: int
) -> None:
    folder = Path(tempfile.mkdtemp())
    cache = BlockCache(folder, capacity := capacity_blocks * block_bytes, block_bytes=block_bytes)
    remotes = [Remote(content(num_bytes, 1)), Remote(content(num_bytes + 5, 2))]
    returned = 0
    for _ in range(data.draw(st.integers(1, 12))):
        number = data.draw(st.integers(0, 1))
        remote = remotes[number]
        start = data.draw(st.integers(0, len(remote.data)))
        length = data.draw(st.integers(0, len(remote.data) - start))
        found = remote.read(cache, start, length, url=f"s3://b/{number}")
        assert found == remote.data[start : start + length]
        assert sum(kept(folder).values()) == counted(folder) <= capacity
        returned += length
    assert cache.hit_bytes + cache.miss_bytes == returned
    assert sum(length for remote in remotes for _, length in remote.asked) >= cache.miss_bytes
    cache.close()
    shutil.rmtree(folder)


def test_missing_blocks_are_fetched_whole_one_call_a_run(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    remote = Remote(content(95))
    assert remote.read(cache, 31, 4) == remote.data[31:35]
    assert remote.read(cache, 55, 1) == remote.data[55:56]
    assert remote.asked == [(30, 10), (50, 10)]
    assert (cache.hit_bytes, cache.miss_bytes) == (0, 5)
    assert remote.read(cache, 12, 82) == remote.data[12:94]
    assert remote.asked[2:] == [(10, 20), (40, 10), (60, 35)]
    assert (cache.hit_bytes, cache.miss_bytes) == (20, 67)
    assert remote.read(cache, 10, 85) == remote.data[10:]
    assert len(remote.asked) == 5
    assert sorted(kept(tmp_path).values()) == [5] + 8 * [10]


def test_a_full_cache_keeps_what_it_has_and_fetches_no_more_than_asked(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 35, block_bytes=10)
    remote = Remote(content(100))
    remote.read(cache, 0, 15)
    assert remote.read(cache, 23, 24) == remote.data[23:47]  # one more block fits: its start is fetched with it
    assert remote.asked == [(0, 20), (20, 27)]
    before = kept(tmp_path)
    assert remote.read(cache, 63, 9) == remote.data[63:72]
    assert remote.asked[2:] == [(63, 9)]
    assert kept(tmp_path) == before
    assert remote.read(cache, 0, 30) == remote.data[:30]
    assert len(remote.asked) == 3


def test_objects_are_told_apart_by_full_url_and_digest(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    keys = [("s3://b/x/0.tar", "d"), ("s3://b/y/0.tar", "d"), ("s3://b/x/0.tar", "e")]
    remotes = [Remote(content(40, salt)) for salt in range(3)]
    for _ in range(2):
        for remote, (url, digest) in zip(remotes, keys, strict=True):
            assert remote.read(cache, 0, 40, url, digest) == remote.data
    assert [remote.asked for remote in remotes] == 3 * [[(0, 40)]]


def test_blocks_outlive_the_process_and_its_block_size(tmp_path: Path) -> None:
    remote = Remote(content(8))
    for block_bytes in (3, 5, 3, 5):  # of 8 bytes, block 1 has three bytes with both sizes, at 3 and at 5
        cache = BlockCache(tmp_path, 1000, block_bytes=block_bytes)
        assert remote.read(cache, 0, 8) == remote.data
        cache.close()
    assert len(remote.asked) == 2


@pytest.mark.parametrize("size", [0, 9, 11])
def test_a_block_of_the_wrong_size_is_fetched_anew(tmp_path: Path, size: int) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    remote = Remote(content(40))
    remote.read(cache, 0, 40)
    next(tmp_path.glob("??/*/10-20")).write_bytes(bytes(size))
    for _ in range(2):
        assert remote.read(cache, 5, 30) == remote.data[5:35]
    assert remote.asked == [(0, 40), (10, 10)]
    assert counted(tmp_path) == sum(kept(tmp_path).values()) == 40


def test_dropped_blocks_are_fetched_anew(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    cache.drop(URL, "d", 0, 10)
    remote = Remote(content(40))
    good, remote.data = remote.data, bytes(40)
    remote.read(cache, 0, 40)
    remote.data = good
    cache.drop(URL, "d", 19, 2)
    assert counted(tmp_path) == sum(kept(tmp_path).values()) == 20
    for _ in range(2):
        assert remote.read(cache, 0, 40) == bytes(10) + good[10:30] + bytes(10)
    assert remote.asked == [(0, 40), (10, 20)]


def test_dropped_blocks_that_cannot_be_removed_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    remote = Remote(content(40))
    good, remote.data = remote.data, bytes(40)
    remote.read(cache, 0, 40)
    remote.data = good

    def fail(*_: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(Space, "remove", fail)
    cache.drop(URL, "d", 0, 15)
    assert remote.read(cache, 0, 40) == good[:20] + bytes(20)


def test_what_fetch_raises_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 40, block_bytes=10)
    remote = Remote(content(40))

    def fail(start: int, length: int) -> memoryview:
        assert counted(tmp_path) == 40
        raise StoreError("gone")

    for _ in range(3):
        with pytest.raises(StoreError, match="gone"):
            cache.read(URL, "d", 40, 0, 40, fail)
        with pytest.raises(ValueError, match="gave 39"):
            cache.read(URL, "d", 40, 0, 40, lambda start, length: memoryview(bytes(39)))
    assert (counted(tmp_path), kept(tmp_path)) == (0, {})
    assert remote.read(cache, 0, 40) == remote.data
    assert counted(tmp_path) == 40


def test_a_disk_that_fills_up_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = BlockCache(tmp_path, 100_000, block_bytes=5000)
    remote = Remote(content(20_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # a write stops in the middle of a block
    try:
        for _ in range(2):
            assert remote.read(cache, 0, 20_000) == remote.data
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (counted(tmp_path), kept(tmp_path)) == (0, {})
    assert len(remote.asked) == 2
    remote.read(cache, 0, 5000)
    assert kept(tmp_path) == {}  # it is not tried again at once,
    cache._keep_again = 0.0
    remote.read(cache, 0, 5000)
    assert list(kept(tmp_path).values()) == [5000]  # but later
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(tmp_path) in caplog.text


def test_a_folder_that_is_lost_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = BlockCache(tmp_path / "c", 1000, block_bytes=10)
    remote = Remote(content(40))
    remote.read(cache, 0, 20)
    shutil.rmtree(tmp_path / "c")
    (tmp_path / "c").write_text("in the way")
    for _ in range(2):
        assert remote.read(cache, 0, 40) == remote.data
    cache.drop(URL, "d", 0, 40)
    cache.claim([(URL, "d")])
    cache.close()
    assert len(caplog.records) == 1


def test_the_disk_is_never_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(cache_space, "MIN_FREE_BYTES", free + (1 << 40))
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    remote = Remote(content(40))
    for _ in range(2):
        assert remote.read(cache, 3, 30) == remote.data[3:33]
    assert kept(tmp_path) == {}
    assert remote.asked == [(3, 30), (3, 30)]
    assert len(caplog.records) == 1
    assert "--data.cache" in caplog.text


@pytest.mark.parametrize("first_fails", [False, True])
def test_threads_that_share_a_block_fetch_it_once(tmp_path: Path, first_fails: bool) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    remote = Remote(content(40))
    begun, go_on = threading.Event(), threading.Event()

    def slow_fetch(start: int, length: int) -> memoryview:
        begun.set()
        assert go_on.wait(60)
        if first_fails:
            raise StoreError("gone")
        return remote.fetch(start, length)

    def second_fetch(start: int, length: int) -> memoryview:
        go_on.set()
        return remote.fetch(start, length)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.read, URL, "d", 40, 0, 15, slow_fetch)
        assert begun.wait(60)
        second = pool.submit(cache.read, URL, "d", 40, 15, 15, second_fetch)
        assert bytes(second.result(60)) == remote.data[15:30]
        assert isinstance(first.exception(60), StoreError if first_fails else type(None))
    assert sorted(remote.asked) == ([(15, 5), (20, 10)] if first_fails else [(0, 20), (20, 10)])


@pytest.mark.parametrize("folder", ["", "s3://bucket/cache", "file", "file/inside", "~nobody-of-this-name/c"])
def test_a_folder_that_cannot_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--data\.cache "):
        BlockCache(folder, 1000, block_bytes=10)


def test_a_capacity_below_one_block(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data\.cache-gb"):
        BlockCache(tmp_path, 9, block_bytes=10)


@pytest.mark.parametrize("folder", ["~/cache", "here/cache", "with some space"])
def test_spellings_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = BlockCache(folder, 1000, block_bytes=10)
    monkeypatch.chdir("/")
    remote = Remote(content(40))
    assert remote.read(cache, 0, 40) == remote.data
    assert len(kept(tmp_path / folder.removeprefix("~/"))) == 4


def test_ranges_outside_the_object_are_refused(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000, block_bytes=10)
    remote = Remote(content(40))
    for start, length in ((-1, 5), (30, 11), (5, -1)):
        with pytest.raises(ValueError, match="asked for of 40"):
            remote.read(cache, start, length)
    assert remote.read(cache, 40, 0) == b""
    assert os.listdir(tmp_path / "users")
