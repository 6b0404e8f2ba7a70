"""Clocks: the method's answer is within its own error, and nodes that are off are named."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats, lists, tuples

from slip.doctor.clock_check import Skew, ask, check_clocks, judge_clocks, skew_of, tell
from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer, Exchange
from slip.doctor.finding import Finding

Together = Callable[..., Any]
DELAY = floats(0, 3)


@settings(deadline=None)
@given(skew_s=floats(-1000, 1000), delays=lists(tuples(DELAY, DELAY), min_size=1, max_size=8))
def test_the_true_skew_is_within_the_error(skew_s: float, delays: list[tuple[float, float]]) -> None:
    # The own clock is ahead by skew_s; there and back take what they take.
    trips = [(5.0 + skew_s, 5.0 + there, 5.0 + there + back + skew_s) for there, back in delays]
    found = skew_of(trips)
    assert abs(found.ahead_s - skew_s) <= found.error_s + 1e-9
    assert found.error_s == pytest.approx(min(map(sum, delays)) / 2, abs=1e-9)


def judged(*skews: tuple[float, float]) -> list[Finding]:
    answers = [
        Answer(rank=rank, node="abc"[rank], value=Skew(ahead_s=ahead_s, error_s=error_s))
        for rank, (ahead_s, error_s) in enumerate(skews)
    ]
    return judge_clocks(answers, 1.0)


def test_clocks_that_agree_are_fine() -> None:
    (found,) = judged((0, 0), (0.0005, 0.0001), (-0.002, 0.0003))
    assert (found.level, found.where) == ("OK", ("a", "b", "c"))
    assert found.found == "c is 2.00 ms behind a (+- 0.30 ms)"
    assert judged((0, 0))[0].found == "one node has one clock"


@pytest.mark.parametrize("skew", [(1.5, 0.001), (-1.5, 0.001), (0.5, 0.6)])
def test_a_clock_that_is_or_may_be_off_is_a_warning(skew: tuple[float, float]) -> None:
    (found,) = judged((0, 0), (0.1, 0.001), skew)
    assert (found.level, found.where) == ("WARN", ("c",))
    assert "--max-skew-s allows 1" in found.found


def test_a_node_finds_its_own_skew(together: Together) -> None:
    def work(exchange: Exchange, rank: int) -> Skew:
        return ask(exchange, rank, 20.0, lambda: time.time() + 100 * rank) if rank else tell(exchange, [1, 2])

    for rank, skew in enumerate(together(["a", "b", "c"], work)):
        assert abs(skew.ahead_s - 100 * rank) <= skew.error_s


def test_all_nodes_are_compared_each_once(together: Together) -> None:
    def work(exchange: Exchange, _: int) -> list[Finding]:
        return check_clocks(exchange, exchange.meet(), DoctorConfig(max_skew_s=60.0))

    first, *others = together(["a", "a", "b"], work)
    assert [(one.level, one.where) for one in first] == [("OK", ("a", "b"))]
    assert others == [[], []]
