"""How the ranks of a check-up tell each other what they found, also when some of them fail, hang or are gone.

In: on each rank a piece of work. Out: on rank 0 the answers of all, each a value or an error in one line. They meet
in the key-value store through which the process group was formed, which works before and without any collective: a
network on which collectives fail is something to report. Work is done in a thread, as a dead network file system
blocks whoever asks it for ever; a thread that does not end in time is left behind and its rank says so.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store

from pipeline.errors import YfccError
from slip.doctor.finding import Finding
from slip.world import World

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S = 15.0
"""Seconds that are waited beyond what work may take."""
_INTERRUPTED_S = 5.0
_LONGEST_PAUSE_S = 0.05
_LONGEST_ERROR = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """What one rank says: a value, an error, or nothing, where it had nothing to do."""

    rank: int
    node: str
    value: T | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Who takes part, known to all."""

    rank: int
    nodes: tuple[str, ...]
    """Node of each rank."""
    token: str
    """A word of this check-up alone, for names of what it writes."""

    @property
    def node(self) -> str:
        """This rank's."""
        return self.nodes[self.rank]

    @property
    def leaders(self) -> list[int]:
        """The first rank of each node: does what is done once on a node."""
        return [rank for rank, node in enumerate(self.nodes) if self.nodes.index(node) == rank]

    @property
    def leads(self) -> bool:
        """Whether this rank is the first of its node."""
        return self.rank in self.leaders

    @property
    def ranks_here(self) -> int:
        """Ranks on this rank's node."""
        return self.nodes.count(self.node)


def node_name(env: Mapping[str, str] = os.environ) -> str:
    """Slurm's name of this node where there is one, else the host's."""
    return env.get("SLURMD_NODENAME") or socket.gethostname()


def in_one_line(error: BaseException) -> str:
    """An error as a cell of the table."""
    text = " ".join(str(error).split())
    shown = text if isinstance(error, YfccError) and text else f"{type(error).__name__}: {text}"
    return shown if len(shown) <= _LONGEST_ERROR else shown[: _LONGEST_ERROR - 3] + "..."


def store_of(world: World) -> Store:
    """Where the ranks of the process group met; a process that is alone gets one of its own."""
    if world.world_size == 1:
        return HashStore()
    # Not among torch's public names, but there is no other way to the store that "tcp://" made.
    return dist.distributed_c10d._get_default_store()


class Exchange:
    """One rank's part of it; all ranks must ask for the same names in the same order."""

    def __init__(self, store: Store, *, rank: int, world_size: int, node: str, timeout_s: float) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._node = node
        self._timeout_s = timeout_s
        self._lost: set[int] = set()
        self.stuck = False
        """Whether a thread was left behind: the process can only end without waiting for it."""

    def meet(self) -> Ranks:
        """Find out who is on which node; every rank learns it."""
        met = self.gather("meet", lambda: None)
        if not self._rank:
            nodes = tuple(answer.node for answer in met)
            self.say("ranks", "\n".join([secrets.token_hex(6), *nodes]).encode())
        token, *named = self.wait_for("ranks", timeout_s=self._timeout_s).decode().split("\n")
        return Ranks(rank=self._rank, nodes=tuple(named), token=token)

    def gather(self, name: str, work: Callable[[], T] | None) -> list[Answer[T]]:
        """Do the work, None where this rank has nothing to do, and go on when all have done theirs.

        Returns:
            Rank 0 gets everybody's answers, in rank order; the others get [].
        """
        began = time.monotonic()
        value, error = (None, "") if work is None else self._attempt(work)
        mine: Answer[T] = Answer(rank=self._rank, node=self._node, value=value, error=error)
        try:
            if self._rank:
                self.say(f"{name}/{self._rank}", pickle.dumps(mine))
                self._wait_for_rank_0(name)
                return []
            answers = self._collect(name, mine, began + self._timeout_s + GRACE_S)
            self.say(f"{name}/done", b"")
            return answers
        except dist.DistError as failure:
            raise YfccError(
                f"rank {self._rank} on {self._node}: the store of the ranks is gone ({in_one_line(failure)}); rank 0, "
                "or torchrun on its node, has ended early: its log says why"
            ) from failure

    def leave(self) -> None:
        """Say goodbye; rank 0, in whose process the store may live, waits until all have."""
        try:
            if self._rank:
                self.say(f"bye/{self._rank}", b"")
                return
            for rank in set(range(1, self._world_size)) - self._lost:
                self.wait_for(f"bye/{rank}", timeout_s=GRACE_S)
        except (dist.DistError, TimeoutError):
            logger.debug("a rank has gone without a word")

    def say(self, key: str, value: bytes) -> None:
        """Put a value that another rank waits for."""
        self._store.set(f"doctor/{key}", value)  # type: ignore[arg-type]  # takes bytes too, and gives them back

    def wait_for(self, key: str, *, timeout_s: float, eager: bool = False) -> bytes:
        """The value of a key once it is there; TimeoutError when it is not in time. Eager: without pauses."""
        deadline, pause_s = time.monotonic() + timeout_s, 0.0 if eager else 0.001
        # Asked for again and again: a wait in the store itself could not be interrupted.
        while not self._store.check([f"doctor/{key}"]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody said {key!r} within {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        found: bytes = self._store.get(f"doctor/{key}")
        return found

    def _attempt(self, work: Callable[[], T]) -> tuple[T | None, str]:
        """The result of the work or its error."""
        outcome: list[tuple[T | None, str]] = []
        # Not join, of which Python 3.11 takes the thread for ended once it was interrupted.
        ended = threading.Event()

        def run() -> None:
            try:
                outcome.append((work(), ""))
            except Exception as error:  # a row of the table, whatever it is
                if not isinstance(error, (YfccError, OSError)):
                    logger.warning("on %s: %s", self._node, in_one_line(error), exc_info=True)
                outcome.append((None, in_one_line(error)))
            finally:
                ended.set()

        try:
            threading.Thread(target=run, daemon=True, name="doctor").start()
            ended.wait(self._timeout_s)
        except BaseException:
            # What it is about to write can be deleted only when it has written it.
            ended.wait(_INTERRUPTED_S)
            raise
        if not outcome:
            self.stuck = True
            return None, f"not finished within {self._timeout_s:g} s (--timeout-s)"
        return outcome[0]

    def _collect(self, name: str, mine: Answer[T], deadline: float) -> list[Answer[T]]:
        """Rank 0's part: everybody's answer, or that there is none. A rank that gave none is asked no more."""
        answers = [mine]
        for rank in range(1, self._world_size):
            if rank in self._lost:
                continue
            try:
                said = self.wait_for(f"{name}/{rank}", timeout_s=max(deadline - time.monotonic(), 0))
                answers.append(self._understood(said, rank))
            except TimeoutError:
                self._lost.add(rank)
                error = f"rank {rank} gave no answer within {self._timeout_s + GRACE_S:g} s; its log may say why"
                answers.append(Answer(rank=rank, node=f"rank {rank}", error=error))
        return answers

    def _understood(self, said: bytes, rank: int) -> Answer[T]:
        """Ranks whose code differs may not understand each other, which is to be told and not to be died of."""
        try:
            answer: Any = pickle.loads(said)
            return Answer(rank=rank, node=answer.node, value=answer.value, error=answer.error)
        except Exception as error:
            return Answer(rank=rank, node=f"rank {rank}", error=f"its answer is not understood: {in_one_line(error)}")

    def _wait_for_rank_0(self, name: str) -> None:
        try:
            # It waits for the slowest rank, which began when this one did.
            self.wait_for(f"{name}/done", timeout_s=self._timeout_s + 2 * GRACE_S)
        except TimeoutError:
            raise YfccError(
                f"rank {self._rank} on {self._node}: rank 0 is silent since check {name!r} began; its log says why"
            ) from None


def failures(check: str, answers: Sequence[Answer[Any]], advice: str = "") -> list[Finding]:
    """A bad row for each error, with all nodes that met it."""
    nodes: dict[str, list[str]] = {}
    for answer in answers:
        if answer.error:
            nodes.setdefault(answer.error, []).append(answer.node)
    return [
        Finding(level="BAD", check=check, where=tuple(dict.fromkeys(where)), found=error, advice=advice)
        for error, where in nodes.items()
    ]


def judged(
    check: str,
    answers: Sequence[Answer[T]],
    judge: Callable[[Sequence[Answer[T]]], list[Finding]],
    advice: str = "",
) -> list[Finding]:
    """The errors as findings, and what `judge` makes of the values, if there is one."""
    found = failures(check, answers, advice)
    values = [answer for answer in answers if answer.value is not None]
    return found + (judge(values) if values else [])
