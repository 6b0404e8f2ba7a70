"""How far each node's clock is off that of rank 0's node.

By Cristian's method (Probabilistic clock synchronization, Distributed Computing 3, 1989): ask for the time, take it
for that of the middle of the round trip; half of the shortest of several round trips is the most it can be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer, Exchange, Ranks, judged
from slip.doctor.finding import Finding

CHECK = "clock"

_ROUNDS = 8
_ROUND_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """A node's clock against rank 0's."""

    ahead_s: float
    """Below 0: behind."""
    error_s: float
    """At most."""


def skew_of(trips: Sequence[tuple[float, float, float]]) -> Skew:
    """Round trips as (asked, time told, answered), the first and last by the own clock.

    [(10.0, 7.0, 10.2)] -> 3.1 s ahead, 0.1 s at most wrong.
    """
    asked, told, answered = min(trips, key=lambda trip: trip[2] - trip[0])
    return Skew(ahead_s=(asked + answered) / 2 - told, error_s=(answered - asked) / 2)


def ask(exchange: Exchange, rank: int, turn_s: float, clock: Callable[[], float] = time.time) -> Skew:
    """This node's part: wait for its turn, then ask for the time some times."""
    exchange.wait_for(f"clock/turn/{rank}", timeout_s=turn_s)
    trips: list[tuple[float, float, float]] = []
    for i in range(_ROUNDS):
        asked = clock()
        exchange.say(f"clock/ask/{rank}/{i}", b"")
        told = float(exchange.wait_for(f"clock/told/{rank}/{i}", timeout_s=_ROUND_S, eager=True))
        trips.append((asked, told, clock()))
    return skew_of(trips)


def tell(exchange: Exchange, leaders: Sequence[int], clock: Callable[[], float] = time.time) -> Skew:
    """Rank 0's part: tell the time to one node after the other."""
    for rank in leaders:
        exchange.say(f"clock/turn/{rank}", b"")
        try:
            for i in range(_ROUNDS):
                exchange.wait_for(f"clock/ask/{rank}/{i}", timeout_s=_ROUND_S, eager=True)
                exchange.say(f"clock/told/{rank}/{i}", repr(clock()).encode())
        except TimeoutError:
            continue  # that node says itself what kept it
    return Skew(ahead_s=0.0, error_s=0.0)


def judge_clocks(answers: Sequence[Answer[Skew]], max_skew_s: float) -> list[Finding]:
    """Name the nodes whose clock is off by too much, or may be."""
    skews = {answer.node: answer.value for answer in answers if answer.value is not None}
    first = answers[0].node
    if len(skews) == 1:
        return [Finding(level="OK", check=CHECK, where=tuple(skews), found="one node has one clock")]
    off = {node: skew for node, skew in skews.items() if abs(skew.ahead_s) + skew.error_s > max_skew_s}
    furthest = max(set(skews) - {first}, key=lambda node: abs(skews[node].ahead_s) + skews[node].error_s)
    skew = skews[furthest]
    side = "ahead of" if skew.ahead_s > 0 else "behind"
    text = f"{furthest} is {abs(skew.ahead_s) * 1e3:,.2f} ms {side} {first} (+- {skew.error_s * 1e3:,.2f} ms)"
    if off:
        text += f"; --max-skew-s allows {max_skew_s:g}"
        advice = "let NTP or chrony set the clocks: leases and the ages of files are judged by them"
        return [Finding(level="WARN", check=CHECK, where=tuple(off), found=text, advice=advice)]
    return [Finding(level="OK", check=CHECK, where=tuple(skews), found=text)]


def check_clocks(exchange: Exchange, ranks: Ranks, config: DoctorConfig) -> list[Finding]:
    """Compare all clocks; rank 0 gets the findings."""

    def work() -> Skew:
        if ranks.rank:
            return ask(exchange, ranks.rank, config.timeout_s)
        return tell(exchange, ranks.leaders[1:])

    answers = exchange.gather("clock", work if ranks.leads else None)
    return judged(CHECK, answers, lambda told: judge_clocks(told, config.max_skew_s))
