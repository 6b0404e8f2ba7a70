"""Ranks as threads of one process, which meet in a store in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from torch._C._distributed_c10d import HashStore

from slip.doctor import exchange as exchange_module
from slip.doctor.exchange import Exchange

T = TypeVar("T")
Together = Callable[[Sequence[str], Callable[[Exchange, int], T]], list[T]]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together[T]:
    """Run a function once for each node's name given, as ranks 0, 1, ...; what they return or raise."""
    monkeypatch.setattr(exchange_module, "GRACE_S", 20.0)

    def run(nodes: Sequence[str], work: Callable[[Exchange, int], T]) -> list[T]:
        store = HashStore()
        results: dict[int, T] = {}
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            exchange = Exchange(store, rank=rank, world_size=len(nodes), node=nodes[rank], timeout_s=30.0)
            try:
                results[rank] = work(exchange, rank)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(len(nodes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]
        return [results[rank] for rank in range(len(nodes))]

    return run
