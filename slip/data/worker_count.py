"""How many threads prepare batches: as many as help and no more, measured on the run's own samples.

In: a function that prepares some samples, and the cores this process may use. Out: how fast different numbers of
threads are, and from those the number to use: first the fewest that are about as fast as any, and, once it is
known how many samples a second the training steps consume, the fewest that keep up with them. Threads beyond that only
take turns with the thread that trains. The batches do not depend on it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

SECONDS_EACH = 0.4
"""Time given to each number of threads."""

_WORTH = 1.1
"""More threads must be this much faster to go on trying."""
_AS_FAST = 0.95
_RESERVE = 1.25
"""Threads prepare this much more than the steps consume, so that a batch of large pictures is no stall."""


def cores_of_this_rank(env: Mapping[str, str] = os.environ) -> int:
    """Cores this process may use: those it is bound to, shared with the other ranks of the node unless Slurm did that.

    torchrun says how many ranks there are (LOCAL_WORLD_SIZE) and binds none; Slurm says how many cores each task was
    given (SLURM_CPUS_PER_TASK) whether it binds or not.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    of_task, ranks = env.get("SLURM_CPUS_PER_TASK", ""), env.get("LOCAL_WORLD_SIZE", "")
    if of_task.isdecimal():
        cores = min(cores, int(of_task))
    elif ranks.isdecimal() and int(ranks) > 0:
        cores //= int(ranks)
    return max(cores, 1)


def thread_counts(cores: int) -> list[int]:
    """Numbers of threads worth trying: 12 -> [1, 2, 3, 4, 6, 8, 12]."""
    steps = [n for power in range(cores.bit_length()) for n in (1 << power, 3 << power)]
    return sorted({n for n in steps if n < cores} | {cores})


def _rate(prepare: Callable[[int], int], threads: int, seconds: float) -> float:
    """Samples per second that so many threads prepare."""
    done = [0] * threads
    failed: list[BaseException] = []
    begin = time.perf_counter()
    end = begin + seconds

    def run(thread: int) -> None:
        number = thread
        try:
            while time.perf_counter() < end and not failed:
                done[thread] += prepare(number)
                number += threads
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=(i,), name=f"measure-{i}") for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done) / (time.perf_counter() - begin)


def measure(prepare: Callable[[int], int], counts: Sequence[int], *, seconds: float = SECONDS_EACH) -> dict[int, float]:
    """Samples per second for each number of threads in `counts` (ascending), until more of them do not help.

    `prepare(i)` prepares the i-th lot of samples and returns how many they were; it is called by several threads,
    and what it raises is raised here.
    """
    rates: dict[int, float] = {}
    for count in counts:
        best = max(rates.values(), default=0.0)
        rates[count] = _rate(prepare, count, seconds)
        if rates[count] < _WORTH * best:
            break
    return rates


def fewest_enough(rates: Mapping[int, float], demand: float | None = None) -> int:
    """The fewest threads that are about as fast as any, or keep up with `demand` samples a second."""
    wanted = _AS_FAST * max(rates.values())
    if demand is not None:
        wanted = min(wanted, _RESERVE * demand)
    return min(count for count, rate in rates.items() if rate >= wanted)
