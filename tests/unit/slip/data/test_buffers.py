from __future__ import annotations

import threading

from slip.data.buffers import BufferPool

MIB = 1 << 20


def test_memory_comes_back_when_its_last_view_is_gone() -> None:
    pool = BufferPool()
    first = pool.take(3 * MIB - 5)
    assert (len(first), first.readonly, pool.num_bytes) == (3 * MIB - 5, False, 3 * MIB)
    first[:4] = b"mine"
    part = first[2:4]
    del first
    second = pool.take(2 * MIB)
    second[:4] = b"ours"
    assert bytes(part) == b"ne"
    assert pool.num_bytes == 5 * MIB
    del part
    third = pool.take(3 * MIB)
    assert (len(third), pool.num_bytes) == (3 * MIB, 5 * MIB)
    assert bytes(second[:4]) == b"ours"


def test_what_is_too_small_goes_before_more_is_taken() -> None:
    pool = BufferPool()
    for _ in range(20):
        small = pool.take(MIB)
        del small
        large = pool.take(2 * MIB)
        del large
    assert pool.num_bytes == 2 * MIB


def test_many_threads_never_share() -> None:
    pool = BufferPool()
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(200):
            view = pool.take(4096 + turn)
            view[:] = bytes([number]) * len(view)
            if bytes(view) != bytes([number]) * len(view):
                wrong.append(number)
            del view

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.num_bytes <= 8 * MIB
