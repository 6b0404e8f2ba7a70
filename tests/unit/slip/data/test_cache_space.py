"""The room of a cache folder: who gets it, and what several processes and their crashes do to it."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slip.data import cache_space
from slip.data.cache import BlockCache
from slip.data.cache_space import Space, network_file_system

# A process that reads at random, checking what it gets. Object K holds K's byte; blocks have 1000 bytes.
READER = """
import random, sys, time
from pathlib import Path
from slip.data import cache_space
from slip.data.cache import BlockCache

cache_space.MIN_FREE_BYTES, cache_space.MIN_FREE_FRACTION = 0, 0.0
folder, act = Path(sys.argv[1]), sys.argv[2]
capacity, seed, reads = map(int, sys.argv[3:])

def announce_and_sleep(*_):
    print("ready", flush=True)
    time.sleep(600)

def fetch(start, length):
    return announce_and_sleep() if act == "sleep in fetch" else memoryview(bytes([number]) * length)

if act == "sleep in write":
    real = Path.write_bytes
    Path.write_bytes = lambda path, data: (real(path, data[: len(data) // 2]), announce_and_sleep())
rng = random.Random(seed)
cache = BlockCache(folder, capacity, block_bytes=1000)
for _ in range(reads):
    number = rng.randrange(8)
    start = rng.randrange(9_500)
    length = rng.randrange(1, 9_500 - start + 1)
    data = cache.read(f"s3://b/{number}/x.tar", "digest", 9_500, start, length, fetch)
    assert data == bytes([number]) * length
    if rng.random() < 0.1:
        cache.drop(f"s3://b/{number}/x.tar", "digest", start, 500)
    if _ == 0:
        print("ready", flush=True)
"""


@pytest.fixture(autouse=True)
def any_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_space, "MIN_FREE_BYTES", 0)
    monkeypatch.setattr(cache_space, "MIN_FREE_FRACTION", 0.0)


@pytest.fixture
def readers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(folder: Path, capacity: int, seed: int, reads: int, act: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, str(folder), act, str(capacity), str(seed), str(reads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def read(cache: BlockCache, number: int, start: int = 0, length: int = 3000, num_bytes: int = 9500) -> None:
    data = cache.read(f"{number}", "d", num_bytes, start, length, lambda _, n: memoryview(bytes([number]) * n))
    assert data == bytes([number]) * length


def held(folder: Path) -> dict[str, int]:
    """Bytes on disk of blocks and parts, while nobody changes names."""
    with (folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {str(path): path.stat().st_size for path in folder.glob("??/*/*")}


def counted(folder: Path) -> int:
    return int((folder / "lock").read_bytes())


def has(cache: BlockCache, number: int) -> bool:
    """Whether the first block of an object is kept."""
    before = cache.hit_bytes
    cache.read(f"{number}", "d", 9500, 0, 1, lambda _, n: memoryview(bytes([number]) * n))
    return cache.hit_bytes > before


def age(cache: BlockCache, number: int, seconds: int) -> None:
    then = time.time() - seconds
    os.utime(cache._object(f"{number}", "d"), (then, then))


def test_what_nobody_uses_makes_room_oldest_first(tmp_path: Path) -> None:
    first = BlockCache(tmp_path, 12_000, block_bytes=1000)
    for number, seconds in ((0, 100), (1, 400), (2, 300), (3, 200)):
        read(first, number)
        age(first, number, seconds)
    first.close()
    cache = BlockCache(tmp_path, 12_000, block_bytes=1000)
    cache.claim([("1", "d"), ("9", "d")])
    read(cache, 4)
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 12_000
    read(cache, 5, length=1000)
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 10_000
    assert [has(cache, number) for number in (4, 5, 1, 0)] == [True, True, True, True]
    assert not any(str(cache._object(f"{number}", "d")) in path for path in held(tmp_path) for number in (2, 3))


def test_what_a_living_process_uses_stays(tmp_path: Path) -> None:
    first = BlockCache(tmp_path, 6000, block_bytes=1000)
    read(first, 0)
    read(first, 1)
    second = BlockCache(tmp_path, 6000, block_bytes=1000)
    before = held(tmp_path)
    read(second, 2)
    assert held(tmp_path) == before
    age(second, 0, 100)
    age(second, 1, 50)
    first.close()
    read(second, 2)
    assert held(tmp_path) == before
    second._space._next_survey = 0.0  # the next one is due: the end of the first process is noticed
    read(second, 2)
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 6000
    assert [has(second, number) for number in (2, 1)] == [True, True]


def test_what_is_read_is_in_use_and_what_is_swept_is_not(tmp_path: Path) -> None:
    first = BlockCache(tmp_path, 9000, block_bytes=1000)
    for number in range(3):
        read(first, number)
    leftover = first._object("1", "d") / f"7000-8000.part-{'0' * 16}-1-0"
    leftover.touch()
    for number in range(3):
        age(first, number, 100 - number)
    first.close()
    cache = BlockCache(tmp_path, 9000, block_bytes=1000)
    assert not leftover.exists()
    assert has(cache, 0)
    read(cache, 3)
    assert [has(cache, number) for number in (0, 3, 2)] == [True, True, True]
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 9000


def test_a_smaller_capacity_is_kept_to_from_the_start(tmp_path: Path) -> None:
    first = BlockCache(tmp_path, 20_000, block_bytes=1000)
    for number in range(5):
        read(first, number)
        age(first, number, 100 - number)
    first.close()
    BlockCache(tmp_path, 7000, block_bytes=1000)
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 6000


def test_whoever_comes_second_gives_the_room_back(tmp_path: Path) -> None:
    block = tmp_path / "ab" / ("c" * 64) / "0-10"
    spaces = [Space(tmp_path, 1000) for _ in range(2)]
    parts = [space.reserve([block]) for space in spaces]
    assert counted(tmp_path) == 20
    for number, (space, (part,)) in enumerate(zip(spaces, parts, strict=True)):
        part.write_bytes(bytes([number]) * 10)
        space.settle([part])
    assert counted(tmp_path) == 10
    assert block.read_bytes() == bytes(10)
    assert held(tmp_path) == {str(block): 10}


def test_many_processes_stay_within_the_bound(tmp_path: Path, readers: list[subprocess.Popen[str]]) -> None:
    capacity = 30_500
    folder = tmp_path / "a cache"
    readers += [start(folder, capacity, seed, 400) for seed in range(4)]
    for process in readers:
        wait_ready(process)
    most = 0
    while any(process.poll() is None for process in readers):
        most = max(most, sum(held(folder).values()))
        time.sleep(0.01)
    for process in readers:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    assert 0 < most <= capacity
    files = held(folder)
    assert not [path for path in files if ".part-" in path]
    assert counted(folder) == sum(files.values()) <= capacity


@pytest.mark.parametrize("act", ["sleep in fetch", "sleep in write"])
def test_a_killed_process_gives_its_room_back(tmp_path: Path, readers: list[subprocess.Popen[str]], act: str) -> None:
    readers.append(start(tmp_path, 30_000, 0, 1, act))
    wait_ready(readers[0])
    reserved = counted(tmp_path)
    assert sum(held(tmp_path).values()) < reserved
    other = BlockCache(tmp_path, 30_000, block_bytes=1000)  # while it lives, what it reserved counts and stays
    assert counted(tmp_path) == reserved
    assert any(".part-" in path for path in held(tmp_path))
    readers[0].kill()
    readers[0].wait()
    read(other, 1)
    BlockCache(tmp_path, 30_000, block_bytes=1000)
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 3000
    assert not any(".part-" in path for path in held(tmp_path))
    assert len(list((tmp_path / "users").iterdir())) == 2


def test_kills_at_any_moment(tmp_path: Path, readers: list[subprocess.Popen[str]]) -> None:
    capacity = 30_500
    rng = random.Random(1)
    for seed in range(4):
        pair = [start(tmp_path, capacity, 10 * seed + i, 100_000) for i in range(2)]
        readers += pair
        for process in pair:
            wait_ready(process)
        time.sleep(rng.uniform(0, 0.3))
        for process in pair:
            process.kill()
            process.wait()
        assert sum(held(tmp_path).values()) <= counted(tmp_path) <= capacity
        BlockCache(tmp_path, capacity, block_bytes=1000).close()
        files = held(tmp_path)
        assert counted(tmp_path) == sum(files.values()) <= capacity
        assert not [path for path in files if ".part-" in path]
        for path, size in files.items():
            begin, end = path.rpartition("/")[2].split("-")
            assert size == int(end) - int(begin)


def test_leftovers_are_told_by_the_lock_not_by_the_process_id(tmp_path: Path) -> None:
    folder = tmp_path / "ab" / ("c" * 64)
    folder.mkdir(parents=True)
    (folder / f"0-10.part-{'0' * 16}-{os.getpid()}-0").write_bytes(bytes(5))
    (folder / "notes.txt").write_text("somebody's")
    (tmp_path / "ab" / "other").mkdir()
    (tmp_path / "ab" / "other" / "0-10").write_text("somebody's")
    Space(tmp_path, 1000)
    assert counted(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.glob("ab/*/*")) == ["0-10", "notes.txt"]


def test_a_lock_that_is_never_given_back_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = BlockCache(tmp_path, 30_000, block_bytes=1000)
    read(cache, 1, length=1000)
    monkeypatch.setattr(cache_space, "_LOCK_WAIT_S", 0.01)
    with (tmp_path / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        read(cache, 1)
        read(cache, 2)
    assert cache.hit_bytes == 1000
    assert len(caplog.records) == 1


def test_a_folder_emptied_by_hand_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = BlockCache(tmp_path / "c", 30_000, block_bytes=1000)
    read(cache, 1)
    shutil.rmtree(tmp_path / "c")
    (tmp_path / "c").mkdir()
    read(cache, 1)
    assert list((tmp_path / "c").iterdir()) == []
    assert "deleted" in caplog.text


def test_a_damaged_total_is_counted_afresh(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 30_000, block_bytes=1000)
    read(cache, 1)
    (tmp_path / "lock").write_bytes(b"what?")
    read(cache, 2)
    assert counted(tmp_path) == sum(held(tmp_path).values()) == 6000


def test_network_file_systems_are_told_by_the_longest_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "/dev/a / ext4 rw 0 0\nhost:/x /mnt/my\\040net nfs4 rw 0 0\n/dev/b /mnt/my\\040net/disk xfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda _: mounts)
    found = [network_file_system(Path(folder)) for folder in ("/mnt/my net/c", "/mnt/my net/disk/c", "/mnt/my", "/c")]
    assert found == ["nfs4", "", "", ""]
