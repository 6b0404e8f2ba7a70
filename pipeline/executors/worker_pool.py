"""A function over a stream of items in several processes; results come back in the items' order.

At most two items per process are on their way, so memory does not grow with the stream. Workers end with the process
that started them, whatever ends it, and a worker that dies ends the run with an error instead of a wait.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.fetch.fetch_child import follow_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

_END_WAIT_S = 5.0


def _work(connection: Connection, function: Callable[[Any], Any], parent_pid: int) -> None:
    """A worker's life: items in, results out, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    follow_parent(parent_pid)
    pa.set_cpu_count(1)  # there are as many workers as wanted already
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, function(item))
        except Exception as error:  # the outermost function of a process: it goes on in the parent
            answer = (False, _portable(error))
        try:
            connection.send(answer)
        except BrokenPipeError:
            return


def _portable(error: Exception) -> Exception:
    """The exception, with its traceback as a note, or, where it cannot be sent, one that says the same."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign exception's constructor does
        return RuntimeError(text)
    error.add_note(f"in a worker process:\n{text}")
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    process: BaseProcess
    connection: Connection

    def died(self) -> StoreError:
        self.process.join(_END_WAIT_S)
        code = self.process.exitcode
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"ended with code {code}"
        )
        return StoreError(
            f"worker process {self.process.pid} {how} in the middle of its work; if the machine ran out of memory, "
            "lower --processes; run the same command again"
        )

    def send(self, item: object) -> None:
        try:
            self.connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            raise self.died() from None

    def receive(self) -> Any:
        try:
            is_good, answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self.died() from None
        if not is_good:
            raise answer
        return answer


def _start(function: Callable[[Any], Any]) -> _Worker:
    # Spawned, not forked: the parent may have threads, whose locks a fork would copy in whatever state they are.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function, os.getpid()), daemon=True)
    process.start()
    theirs.close()  # else a dead worker's pipe would stay open, here
    return _Worker(process=process, connection=ours)


def _end(workers: Iterable[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_END_WAIT_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], *, processes: int) -> Generator[Result]:
    """function(item) for every item, in order; close the generator to end the workers early.

    A single item, or `processes` = 1, is worked on in this process. Function, items and results must be picklable.

    Raises:
        StoreError: a worker died.
        Whatever the function raises, for the item whose turn it is or a later one.
    """
    stream = iter(items)
    first = list(itertools.islice(stream, 2))
    if processes == 1 or len(first) < 2:
        yield from map(function, itertools.chain(first, stream))
        return
    yield from _map_in_workers(function, itertools.chain(first, stream), processes)


def _map_in_workers(function: Callable[[Item], Result], stream: Iterator[Item], processes: int) -> Generator[Result]:
    workers: list[_Worker] = []
    idle: list[_Worker] = []
    number_of: dict[Connection, int] = {}
    results: dict[int, Result] = {}
    num_sent = num_yielded = 0
    is_exhausted = False
    try:
        while True:
            while not is_exhausted and num_sent - num_yielded < 2 * processes and (idle or len(workers) < processes):
                try:
                    item = next(stream)
                except StopIteration:
                    is_exhausted = True
                    break
                if not idle:
                    workers.append(_start(function))
                    idle.append(workers[-1])
                worker = idle.pop()
                worker.send(item)
                number_of[worker.connection] = num_sent
                num_sent += 1
            if num_yielded in results:
                yield results.pop(num_yielded)
                num_yielded += 1
            elif number_of:
                ready = wait(list(number_of))
                for worker in workers:
                    if worker.connection in ready:
                        results[number_of.pop(worker.connection)] = worker.receive()
                        idle.append(worker)
            else:
                return
    finally:
        _end(workers)
