from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, permutations

from slip.data.samples import RawSample, Window
from slip.data.turns import Reader, Stopped, Turns


def sample(key: str, num_bytes: int = 10) -> RawSample:
    return RawSample(
        sample_id=-1, shard="a.tar", offset=0, key=key, image=b"x" * num_bytes, text=key, json=b"",
    )  # fmt: skip


def keys(window: Future[Window]) -> list[str]:
    return [found.key for found in window.result(timeout=30)]


def fill(turns: Turns, reader: Reader, names: list[str], num_bytes: int, ended: list[str]) -> None:
    try:
        for name in names:
            turns.put(reader, sample(name, num_bytes))
    except Stopped:
        ended.append("stopped")


def start(turns: Turns, reader: Reader, names: list[str], num_bytes: int = 10) -> tuple[threading.Thread, list[str]]:
    ended: list[str] = []
    thread = threading.Thread(target=fill, args=(turns, reader, names, num_bytes, ended), daemon=True)
    thread.start()
    return thread, ended


@settings(max_examples=60, deadline=None)
@given(threads=integers(1, 4), size=integers(1, 7), num_early=integers(0, 5), order=permutations(range(24)))
def test_the_order_does_not_depend_on_who_is_first(threads: int, size: int, num_early: int, order: list[int]) -> None:
    turns = Turns(threads=threads, size=size, queue_bytes=10**9)
    windows = [turns.request(100 * i) for i in range(num_early)]
    todo = [[f"{t}/{n}" for n in range(24)] for t in range(threads)]
    for number in order * threads:
        reader = number % threads
        if todo[reader]:
            turns.put(turns.readers[reader], sample(todo[reader].pop(0)))
    for reader in range(threads):
        for name in todo[reader]:
            turns.put(turns.readers[reader], sample(name))
    expected = [f"{k % threads}/{k // threads}" for k in range(24 * threads)]
    windows += [turns.request(100 * i) for i in range(num_early, 24 * threads // size)]
    for i, window in enumerate(windows[: 24 * threads // size]):
        assert keys(window) == expected[i * size : (i + 1) * size]
        assert [s.sample_id for s in window.result()] == list(range(100 * i, 100 * i + size))


@settings(max_examples=20, deadline=None)
@given(sizes=lists(integers(0, 300), min_size=12, max_size=12))
def test_a_batch_larger_than_the_queues_is_dealt(sizes: list[int]) -> None:
    turns = Turns(threads=3, size=12, queue_bytes=90)
    running = [
        start(turns, reader, [f"{t}/{n}" for n in range(8)], num_bytes=sizes[t])
        for t, reader in enumerate(turns.readers)
    ]
    windows = [turns.request(0), turns.request(12)]
    assert [key for window in windows for key in keys(window)] == [f"{k % 3}/{k // 3}" for k in range(24)]
    for thread, ended in running:
        thread.join(30)
        assert not thread.is_alive()
        assert not ended


def test_waiting_bytes_are_bounded() -> None:
    turns = Turns(threads=2, size=4, queue_bytes=200)
    reader = turns.readers[0]
    thread, ended = start(turns, reader, [str(n) for n in range(50)], num_bytes=30)
    thread.join(0.3)
    assert thread.is_alive()
    assert 0 < sum(len(s.image) for s in reader.queue) <= 100
    waiting = turns.waiting()
    assert waiting is None
    window = turns.request(0)
    waiting = turns.waiting()
    assert waiting is not None
    assert waiting[0] == 1  # the first thread's sample was taken, it is the second's turn
    turns.close()
    thread.join(30)
    assert not thread.is_alive()
    assert ended == ["stopped"]
    with pytest.raises(CancelledError):
        window.result(timeout=30)
    with pytest.raises(RuntimeError, match="closed"):
        turns.request(4)


def test_a_failure_reaches_every_batch_that_is_not_complete() -> None:
    turns = Turns(threads=1, size=2, queue_bytes=1000)
    windows = [turns.request(0), turns.request(2)]
    for name in "abc":
        turns.put(turns.readers[0], sample(name))
    turns.fail(OSError("the disk is gone"))
    turns.fail(OSError("and this follows from it"))
    assert keys(windows[0]) == ["a", "b"]
    for window in (windows[1], turns.request(4)):
        with pytest.raises(OSError, match="the disk is gone"):
            window.result(timeout=30)
    with pytest.raises(Stopped):
        turns.put(turns.readers[0], sample("d"))


def test_a_batch_that_was_cancelled_does_not_disturb_the_next() -> None:
    turns = Turns(threads=1, size=2, queue_bytes=1000)
    windows = [turns.request(0), turns.request(2)]
    assert windows[0].cancel()
    for name in "abcd":
        turns.put(turns.readers[0], sample(name))
    assert keys(windows[1]) == ["c", "d"]
