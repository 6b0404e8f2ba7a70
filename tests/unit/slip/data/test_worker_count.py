from __future__ import annotations

import os
import threading

import pytest

from slip.data import worker_count
from slip.data.worker_count import cores_of_this_rank, fewest_enough, measure, thread_counts


def test_cores_are_shared_by_the_ranks_of_a_node_unless_slurm_has_dealt_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(24)))
    assert cores_of_this_rank({}) == 24
    assert cores_of_this_rank({"LOCAL_WORLD_SIZE": "8"}) == 3
    assert cores_of_this_rank({"LOCAL_WORLD_SIZE": "80"}) == 1
    assert cores_of_this_rank({"SLURM_CPUS_PER_TASK": "6", "LOCAL_WORLD_SIZE": "1"}) == 6
    # Bound to fewer than Slurm says.
    assert cores_of_this_rank({"SLURM_CPUS_PER_TASK": "48"}) == 24


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 3, 4, 6, 8]), (14, [1, 2, 3, 4, 6, 8, 12, 14])],
)
def test_numbers_of_threads_that_are_tried(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts


def test_trying_ends_when_more_threads_do_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    rate_of = {1: 100.0, 2: 195.0, 3: 199.0, 4: 400.0, 6: 600.0}
    monkeypatch.setattr(worker_count, "_rate", lambda prepare, threads, seconds: rate_of[threads])
    rates = measure(lambda number: 1, list(rate_of))
    assert rates == {1: 100.0, 2: 195.0, 3: 199.0}
    assert fewest_enough(rates) == 2


def test_all_threads_prepare_different_samples() -> None:
    asked: set[int] = set()
    all_at_once = threading.Barrier(3)

    def prepare(number: int) -> int:
        assert number not in asked
        asked.add(number)
        # Without three threads at once this would end in an error.
        if number < 3:
            all_at_once.wait(timeout=60)
        return 5

    rates = measure(prepare, [3], seconds=0.05)
    assert rates[3] > 0
    assert {0, 1, 2} <= asked


def test_what_goes_wrong_while_measuring_is_raised() -> None:
    def prepare(number: int) -> int:
        if number == 7:
            raise OSError("no more")
        return 1

    with pytest.raises(OSError, match="no more"):
        measure(prepare, [1, 2])


def test_the_fewest_that_keep_up_are_enough() -> None:
    rates = {1: 1000.0, 2: 1950.0, 4: 3700.0, 8: 3800.0}
    assert fewest_enough(rates) == 4
    assert [fewest_enough(rates, demand) for demand in (10, 800, 801, 1500, 2900, 1e6)] == [1, 1, 2, 2, 4, 4]
