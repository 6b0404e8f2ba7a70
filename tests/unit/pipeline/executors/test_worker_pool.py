"""Work spread over processes: order, errors, and deaths on either side."""

from __future__ import annotations

import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.executors.worker_pool import map_in_order


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, f"still there: {[pid for pid in pids if is_running(pid)]}"
        time.sleep(0.05)


@pytest.mark.parametrize(("processes", "count"), [(1, 25), (2, 0), (2, 1), (2, 2), (3, 25)])
def test_results_come_in_order(processes: int, count: int) -> None:
    assert list(map_in_order(operator.neg, range(count), processes=processes)) == [-n for n in range(count)]


def test_slow_items_hold_nothing_up_but_what_follows_them() -> None:
    pauses_s = [0.4, 0, 0, 0, 0.2, 0]
    assert list(map_in_order(time.sleep, pauses_s, processes=2)) == [None] * 6


def test_items_are_taken_only_as_needed() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = map_in_order(operator.neg, items(), processes=2)
    assert [next(results) for _ in range(3)] == [-1, -2, -3]
    assert taken <= 3 + 2 * 2 + 1
    results.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_out_as_it_is(processes: int) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        list(map_in_order(int, ["1", "2", "x", "4"], processes=processes))
    assert processes == 1 or "in a worker process" in "".join(caught.value.__notes__)


def test_a_killed_worker_is_an_error_and_no_wait() -> None:
    with pytest.raises(StoreError, match=r"was killed by SIGKILL in the middle of its work; if .* --processes"):
        list(map_in_order(signal.raise_signal, [signal.SIGKILL] * 4, processes=2))


def test_a_worker_that_exits_is_an_error() -> None:
    with pytest.raises(StoreError, match="ended with code 3"):
        list(map_in_order(os._exit, [3, 3, 3], processes=2))


def test_closing_ends_the_workers() -> None:
    results = map_in_order(time.sleep, [0, 600, 600], processes=2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(sent: signal.Signals) -> None:
    code = (
        "import time; from pipeline.executors.worker_pool import map_in_order\n"
        "results = map_in_order(time.sleep, [0, 0, 600, 600], processes=2)\n"
        "next(results); next(results); print('working', flush=True); next(results)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "working\n"
    workers = children(driver.pid)
    assert len(workers) >= 2
    driver.send_signal(sent)
    driver.wait(60)
    driver.stdout.close()
    wait_until_gone(workers)
