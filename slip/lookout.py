"""Who is gone: no rank waits for ever for one that crashed or froze, and the log names it.

In: a `World` of several ranks. Every rank runs a thread that says "I am alive" through the store at which the ranks
met, whatever its main thread does. Rank 0 reads what all say and gives its verdict; the others read rank 0. When
somebody has been silent for too long, every process says who, and ends itself: its main thread may be stuck in a
collective. Who is silent is judged by `slip.beats`.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Self

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented there, but not in its __all__

from pipeline.errors import RankLostError
from slip.beats import GOODBYE, AwakeClock, Beat, Judge
from slip.distributed import waits_s
from slip.world import World

logger = logging.getLogger(__name__)

BEAT_S = 1.0
EXIT_LOST = RankLostError.exit_code
"""Exit status of a process that ends because another is lost."""
_LEAVE_S = 5.0
"""Seconds rank 0 stays at most until all have read its last words: the store may be in its process."""
_LOG_S = 5.0
"""Seconds the last log line may take; the main thread may hold a lock of it, or the disk may hang."""
_ASK_S = 0.2
"""Seconds between two readings while the main thread waits in `gone`."""
_numbers = itertools.count()
_Readings = list[tuple[float, dict[int, Beat]]]
"""What all ranks said, and when it was read."""


def _listened_s(asked: _Readings) -> float:
    return asked[-1][0] - asked[0][0] if asked else 0.0


def _answered(asked: _Readings, ranks: Iterable[int]) -> bool:
    """Whether each rank has ended, or said something new since the first reading."""
    if not asked:
        return False
    first, last = asked[0][1], asked[-1][1]
    return all(
        rank in last and (last[rank].end is not None or rank not in first or first[rank].count != last[rank].count)
        for rank in ranks
    )


class Lookout:
    """Watches over the ranks of a run from entering to leaving it; does nothing where there is only one.

    Enter it right after `init_world`, on all ranks: one that is not heard of within twice `silent_s` counts as lost.
    Who leaves it says goodbye, or with which error it ends, and may do so at any moment; when rank 0 has said goodbye
    nobody is watched any more.

    Args:
        silent_s: seconds without a sign of life after which a rank is lost.
        slow_s: seconds of waiting in one collective after which rank 0 warns, naming those who do not wait.
    """

    def __init__(self, world: World, *, silent_s: float = 30.0, slow_s: float = 60.0) -> None:
        self._rank = world.rank
        self._ranks = range(world.world_size)
        self._address = world.store_address if world.world_size > 1 else None
        self._silent_s = silent_s
        self._beat_s = min(BEAT_S, silent_s / 10)
        self._clock = AwakeClock(time.monotonic, most_s=3 * self._beat_s)
        # Looked at when something was read: where the store stands still, nobody's silence grows. It does for five
        # seconds when a rank connects and the name service hangs.
        self._listened = AwakeClock(time.monotonic, most_s=3 * self._beat_s)
        # Rank 0 reads all beats in one request, at 512 ranks 77 kB, in 6 ms with the judging; the others read its beat
        # alone. So the store answers 1024 small requests a second (40 ms from one process). Were all to read all, it
        # would send 40 MB a second.
        watched = [rank for rank in self._ranks if rank != self._rank] if self._rank == 0 else [0]
        # Connecting may take long for the same reason: as much time again.
        began = silent_s
        self._judge = Judge(watched, silent_s=silent_s, slow_s=slow_s, began=began)
        # torchrun keeps its store when it starts the processes again, and one process may keep several lookouts in
        # turn: what was said then must not be heard now.
        self._keys = f"slip/lookout/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_numbers)}"
        self._known: set[int] = set()
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._step: int | None = None
        self._end: str | None = None
        self._count = 0
        # What the threads share, under the lock of `_news`.
        self._news = threading.Condition()
        self._exchanged = began
        self._trouble: str | None = None
        self._verdict: str | None = None
        self._asked: _Readings | None = None
        self._wake = threading.Event()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._exchange, "lookout"), (self._watch, "lookout-watch"))
        ]

    def __enter__(self) -> Self:
        if self._address is not None:
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._address is None:
            return
        self._end = GOODBYE if kind is None else f"{kind.__name__}: {error!s:.300}"
        self._wake.set()
        # If the store hangs the thread does; it is a daemon.
        self._threads[0].join(2 * _LEAVE_S)
        self._over.set()
        self._threads[1].join(_LEAVE_S)

    def at(self, step: int) -> None:
        """Say which optimizer step is under way."""
        self._step = step

    def gone(self, after_s: float = 3.0) -> str | None:
        """Which ranks do not live any more, in words, who fell silent first named first; None when all do.

        For a main thread whose collective just failed. A rank that beats after that is alive, so the answer comes as
        soon as all have done so, else after `after_s` of listening (twice that where the store hardly answers).
        """
        if self._address is None:
            return None
        with self._news:
            asked = self._asked = []
            self._wake.set()
            self._news.wait_for(
                lambda: self._trouble is not None or _answered(asked, self._others()) or _listened_s(asked) >= after_s,
                timeout=2 * after_s,
            )
            self._asked = None
            answered = _answered(asked, self._others())
            if self._trouble is not None or (not answered and _listened_s(asked) < after_s / 2):
                return None if self._rank0_left() else self._store_words(self._clock.tick())
            judge = Judge(self._others(), silent_s=after_s, slow_s=after_s, began=0)
            judge.saw(asked[0][1].values(), 0)
            judge.saw(asked[-1][1].values(), after_s)
            failed = [rank for rank, beat in judge.seen.items() if beat.end not in (None, GOODBYE)]
            found = sorted({*judge.silent(after_s, after_s), *failed}, key=judge.order)
            return judge.describe(found, after_s) if found else None

    def _others(self) -> list[int]:
        return [rank for rank in self._ranks if rank != self._rank]

    def _rank0_left(self) -> bool:
        beat = self._judge.seen.get(0)
        return beat is not None and beat.end == GOODBYE

    def _store_words(self, now: float) -> str:
        """That the store is gone, and with whom."""
        assert self._address is not None
        what = f"store at {self._address[0]}:{self._address[1]} "
        what += f"has not answered for {now - self._exchanged:.0f} s" if self._trouble is None else "is closed"
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return f"torchrun, or its node, is gone: its {what}"
        beat = self._judge.seen.get(0)
        if beat is None:
            return f"rank 0 is gone: its {what}"
        if beat.end is not None:
            return f"{beat.who} ended with an error {beat.doing}: {beat.end}"
        return f"{beat.who} is gone: its {what}; when last heard it was {beat.doing}"

    def _exchange(self) -> None:
        """The thread that speaks and listens."""
        assert self._address is not None
        try:
            store = TCPStore(
                *self._address,
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=10 * self._silent_s),
            )
            while True:
                said = self._turn(store)
                if said.end is not None or said.verdict is not None or self._rank0_left():
                    break
                self._wake.wait(self._beat_s if self._asked is None else min(_ASK_S, self._beat_s))
                self._wake.clear()
            if self._rank == 0:
                self._stay(store, said)
        except RuntimeError as error:  # whatever goes wrong with a store is one
            with self._news:
                self._trouble = str(error)
                self._news.notify_all()

    def _turn(self, store: TCPStore) -> Beat:
        """Read others, then say something; what was said."""
        asked = self._asked
        beats = self._read(store, self._others() if self._rank == 0 or asked is not None else [0])
        with self._news:
            now = self._listened.tick()
            self._judge.saw([beat for rank, beat in beats.items() if self._rank == 0 or rank == 0], now)
            self._exchanged = max(self._exchanged, self._clock.tick())
            if asked is not None:
                asked.append((now, beats))
                self._news.notify_all()
        return self._say(store, now)

    def _say(self, store: TCPStore, now: float) -> Beat:
        """Tell the others how this rank is, and as rank 0 who is lost; what was said."""
        rank0 = self._judge.seen.get(0)
        self._count += 1
        beat = Beat(
            rank=self._rank,
            host=self._host,
            pid=self._pid,
            count=self._count,
            heard=self._count if self._rank == 0 else rank0.count if rank0 is not None else 0,
            step=self._step,
            waits_s=waits_s(),
            end=self._end,
            verdict=self._judge.verdict(now) if self._rank == 0 else None,
        )
        store.set(self._key(self._rank), beat.encode())
        if self._rank == 0:
            slow = self._judge.slow(beat)
            if slow is not None:
                logger.warning("%s", slow)
        elif rank0 is not None and rank0.verdict is not None:
            # Only now, as it was said with this beat that the verdict was heard.
            self._verdict = rank0.verdict
        return beat

    def _stay(self, store: TCPStore, said: Beat) -> None:
        """Keep rank 0's process, where the store may be, until the others have read its last words."""
        until = self._listened.now + _LEAVE_S
        while True:
            beats = self._read(store, self._others())
            with self._news:
                now = self._listened.tick()
                self._judge.saw(beats.values(), now)
                self._exchanged = self._clock.tick()
            if now >= until or not self._judge.unheard(said.count, now, 3 * self._beat_s):
                break
            time.sleep(self._beat_s / 4)
        self._verdict = said.verdict

    def _read(self, store: TCPStore, ranks: Iterable[int]) -> dict[int, Beat]:
        # multi_get waits for keys that are not there: until a rank has spoken first, it is asked for by itself.
        ranks = [rank for rank in ranks if rank in self._known or store.check([self._key(rank)])]
        self._known.update(ranks)
        found = store.multi_get([self._key(rank) for rank in ranks]) if ranks else []
        return {rank: Beat.decode(data) for rank, data in zip(ranks, found, strict=True)}

    def _key(self, rank: int) -> str:
        return f"{self._keys}/{rank}"

    def _watch(self) -> None:
        """The thread that acts: it ends this process when another is lost, whatever the others of its threads do."""
        while not self._over.wait(self._beat_s):
            lost = self._lost()
            if lost is not None:
                self._end_process(lost)

    def _lost(self) -> str | None:
        with self._news:
            now = self._clock.tick()
            if self._verdict is not None or self._rank0_left():
                return self._verdict
            if now - self._exchanged >= self._silent_s:
                return self._store_words(now)
            return self._judge.verdict(self._listened.now) if self._rank > 0 else None

    def _end_process(self, lost: str) -> None:
        late = threading.Timer(_LOG_S, os._exit, (EXIT_LOST,))
        late.daemon = True
        late.start()
        logger.error("%s; this process ends, as it would wait for ever: run the same command again to go on", lost)
        logging.shutdown()
        os._exit(EXIT_LOST)
