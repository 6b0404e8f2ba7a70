"""All-reduce: the formula, a wrong sum, a slow network, and who comes last. The collectives themselves run in
tests/distributed/test_doctor.py."""

from __future__ import annotations

import dataclasses

import pytest

from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.reduce_check import Reduced, bus_bandwidth, judge_pace, judge_reduced, judge_sum

GOOD = Reduced(
    right=True, num_bytes=64_000_000, message_s=0.001, tiny_s=20e-6, work_s=0.02, wait_s=0.001, device="cuda"
)


def answers(*facts: Reduced) -> list[Answer[Reduced]]:
    return [Answer(rank=rank, node="ab"[rank // 2], value=one) for rank, one in enumerate(facts)]


def test_bandwidth_is_what_a_link_of_a_ring_carries() -> None:
    # In a ring of n each rank sends n - 1 parts of bytes / n twice: once to sum them up, once to hand out the sums.
    for n in (2, 3, 8, 64):
        sent = sum(6000 / n for _ in range(2) for _ in range(n - 1))
        assert bus_bandwidth(6000, 0.5, n) == pytest.approx(sent / 0.5)


def test_a_fast_and_right_sum_is_fine() -> None:
    sum_row, pace_row = judge_reduced(
        answers(GOOD, GOOD, GOOD, dataclasses.replace(GOOD, message_s=0.002)), DoctorConfig()
    )
    assert (sum_row.level, sum_row.where) == ("OK", ("a", "b"))
    assert sum_row.found == "48.00 GB/s of bus bandwidth (64 MB in 2.0 ms), 20 us for one number"
    assert (pace_row.level, pace_row.where) == ("OK", ("a", "b"))


def test_a_wrong_sum_is_bad_where_it_is() -> None:
    (found,) = judge_sum(answers(GOOD, GOOD, GOOD, dataclasses.replace(GOOD, right=False)), DoctorConfig())
    assert (found.level, found.where, found.found) == ("BAD", ("b",), "the sum over all ranks is wrong")


@pytest.mark.parametrize(("device", "level"), [("cuda", "WARN"), ("cpu", "OK")])
def test_a_slow_network_is_a_warning_on_gpus(device: str, level: str) -> None:
    slow = dataclasses.replace(GOOD, message_s=0.2, device=device)
    (found,) = judge_sum(answers(slow, slow, slow, slow), DoctorConfig(min_reduce_gb_s=1.0))
    assert found.level == level
    assert found.found.startswith("0.48 GB/s")


@pytest.mark.parametrize(("device", "level"), [("cuda", "WARN"), ("cpu", "OK")])
def test_who_waits_least_comes_last(device: str, level: str) -> None:
    waits = [0.009, 0.010, 0.009, 0.001]
    facts = [dataclasses.replace(GOOD, wait_s=wait_s, device=device) for wait_s in waits]
    (found,) = judge_pace(answers(*facts), 0.25)
    assert found.level == level
    assert found.found.startswith("the last, rank 3 on b, comes 45% of the work's time after the first")
    assert found.where == (("b",) if level == "WARN" else ("a", "b"))
