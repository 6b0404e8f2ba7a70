"""Signs of life: what a rank says of itself about once a second, and who is silent by what was seen of them.

In: beats, and when they were seen on the clock of the one who saw them. Out: judgements, in words. Clocks of two
machines are never compared. Sending, reading and acting on it are `slip.lookout`'s part; this imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

GOODBYE = "goodbye"
_NAMED = 8
"""Ranks described one by one in a message; a node that is lost takes as many with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a rank says of itself."""

    rank: int
    host: str
    pid: int
    count: int
    """Number of this beat: while it grows, the rank is alive."""
    heard: int
    """Number of the beat of rank 0 that this rank read last: a clock that all share, to order what happened."""
    step: int | None
    """Optimizer step under way, None before the first."""
    waits_s: float | None
    """Seconds in the collective it waits in, None while it does something else."""
    end: str | None = None
    """Of the last beat: GOODBYE, or the error with which the rank leaves."""
    verdict: str | None = None
    """Of rank 0 alone: who is lost, in words; all end then."""

    def encode(self) -> str:
        """As JSON, some 150 bytes."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def decode(data: bytes | str) -> Beat:
        """What `encode` gave."""
        return Beat(**json.loads(data))

    @property
    def who(self) -> str:
        """ "rank 2 (node3, pid 4711)"."""
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    @property
    def doing(self) -> str:
        """ "in step 57, waiting in a collective for 12 s"."""
        where = "before the first step" if self.step is None else f"in step {self.step}"
        what = "at work" if self.waits_s is None else f"waiting in a collective for {self.waits_s:.0f} s"
        return f"{where}, {what}"


class AwakeClock:
    """Seconds this process was awake: when it was stopped and goes on, others have not been silent for that long.

    Args:
        clock: seconds that never go back, such as time.monotonic.
        most_s: what counts at most between two looks at the clock; one who looks more rarely was not awake.
    """

    def __init__(self, clock: Callable[[], float], *, most_s: float) -> None:
        self._clock, self._most_s = clock, most_s
        self._looked = clock()
        self.now = 0.0

    def tick(self) -> float:
        """Look at the clock."""
        looked = self._clock()
        self.now += min(looked - self._looked, self._most_s)
        self._looked = looked
        return self.now


def listed(parts: Sequence[str]) -> str:
    """The first few of a list, and how many there are beyond."""
    more = f"; and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return "; ".join(parts[:_NAMED]) + more


class Judge:
    """Says which of some ranks are silent, and which keep others waiting.

    Args:
        ranks: who is watched.
        silent_s: seconds without a new beat after which a rank is lost.
        slow_s: seconds of waiting in one collective after which somebody should hear of it.
        began: when the watch began; a rank never heard of is silent since then.
    """

    def __init__(self, ranks: Iterable[int], *, silent_s: float, slow_s: float, began: float) -> None:
        self.seen: dict[int, Beat] = {}
        self._since = dict.fromkeys(ranks, began)
        self._silent_s, self._slow_s = silent_s, slow_s
        self._warned = False

    def saw(self, beats: Iterable[Beat], at: float) -> None:
        """Take note of what was read at a moment."""
        for beat in beats:
            known = self.seen.get(beat.rank)
            if known is None or known.count != beat.count:
                self._since[beat.rank] = at
            self.seen[beat.rank] = beat

    def silent(self, at: float, for_s: float) -> list[int]:
        """Ranks without a new beat for so long that did not say goodbye; who fell silent first comes first."""
        found = [
            rank
            for rank, since in self._since.items()
            if at - since >= for_s and (rank not in self.seen or self.seen[rank].end != GOODBYE)
        ]
        return sorted(found, key=self.order)

    def order(self, rank: int) -> tuple[int, int]:
        """A key by which those who fell silent first come first."""
        return (self.seen[rank].heard if rank in self.seen else -1, rank)

    def verdict(self, at: float) -> str | None:
        """Who is lost, in words; None while nobody is."""
        if not self.silent(at, self._silent_s):
            return None
        # The ranks of a lost node fall silent within a beat of each other, and are named together.
        return self.describe(self.silent(at, self._silent_s / 2), at)

    def describe(self, ranks: Collection[int], at: float) -> str:
        """Silent ranks, and what they did when last heard."""
        return listed([self._describe(rank, at - self._since[rank]) for rank in ranks])

    def _describe(self, rank: int, silent_s: float) -> str:
        beat = self.seen.get(rank)
        if beat is None:
            return f"rank {rank} was never heard of"
        if beat.end is not None:
            return f"{beat.who} ended with an error {beat.doing}: {beat.end}"
        return f"{beat.who} is silent for {silent_s:.0f} s; when last heard it was {beat.doing}"

    def unheard(self, number: int, at: float, patience_s: float) -> list[int]:
        """Ranks alive that have not read rank 0's beat of this number; those silent for longer are not waited for."""
        lost = set(self.silent(at, patience_s))
        return [
            rank
            for rank in self._since
            if rank not in lost
            and (rank not in self.seen or (self.seen[rank].end is None and self.seen[rank].heard < number))
        ]

    def slow(self, own: Beat) -> str | None:
        """Who keeps others waiting for more than `slow_s`, once for each such wait; None else.

        Args:
            own: the beat of the rank that judges, which is not among those it watches.
        """
        beats = [own, *(beat for beat in self.seen.values() if beat.end is None and beat.rank != own.rank)]
        longest_s = max((beat.waits_s for beat in beats if beat.waits_s is not None), default=0.0)
        if longest_s <= self._slow_s:
            self._warned = False
            return None
        if self._warned:
            return None
        self._warned = True
        late = sorted((beat for beat in beats if beat.waits_s is None), key=lambda beat: beat.rank)
        waiting = f"{len(beats) - len(late)} ranks have waited in a collective for up to {longest_s:.0f} s"
        if not late:
            return f"{waiting}, and nobody does anything else: ranks call different collectives, or a network fails"
        return f"{waiting} for {listed([f'{beat.who}, {beat.doing}' for beat in late])}"
