"""Ranks tell rank 0 what they found, whatever befalls some of them."""

from __future__ import annotations

import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from pipeline.errors import StoreError, YfccError
from slip.doctor import exchange as exchange_module
from slip.doctor.exchange import Answer, Exchange, Ranks, failures, in_one_line, judged, node_name
from slip.doctor.finding import Finding

Together = Callable[..., Any]


def alone(timeout_s: float = 30.0) -> Exchange:
    return Exchange(HashStore(), rank=0, world_size=1, node="a", timeout_s=timeout_s)


def test_all_learn_who_is_where(together: Together) -> None:
    found: list[Ranks] = together(["a", "a", "b"], lambda exchange, _: exchange.meet())
    assert [ranks.nodes for ranks in found] == [("a", "a", "b")] * 3
    assert [ranks.rank for ranks in found] == [0, 1, 2]
    assert len({ranks.token for ranks in found}) == 1
    assert [ranks.leads for ranks in found] == [True, False, True]
    assert found[1].leaders == [0, 2]
    assert [ranks.ranks_here for ranks in found] == [2, 2, 1]


def test_two_check_ups_have_different_words() -> None:
    assert alone().meet().token != alone().meet().token


def test_rank_0_gets_values_and_errors_in_rank_order(together: Together) -> None:
    def work(exchange: Exchange, rank: int) -> list[Answer[int]]:
        def measure() -> int:
            if rank == 1:
                raise StoreError("s3://b: refused;\n  log in")
            return 10 * rank

        return exchange.gather("x", None if rank == 2 else measure)

    first, *others = together(["a", "b", "c", "d"], work)
    assert first == [
        Answer(rank=0, node="a", value=0),
        Answer(rank=1, node="b", error="s3://b: refused; log in"),
        Answer(rank=2, node="c"),
        Answer(rank=3, node="d", value=30),
    ]
    assert others == [[], [], []]


def test_nobody_goes_on_before_all_have_finished(together: Together) -> None:
    finished: list[int] = []
    may_end = threading.Event()

    def work(exchange: Exchange, rank: int) -> int:
        def measure() -> None:
            if rank == 2:
                may_end.wait(20)
            else:
                threading.Timer(0.1, may_end.set).start()
            finished.append(rank)

        exchange.gather("x", measure)
        return len(finished)

    assert together(["a", "b", "c"], work) == [3, 3, 3]


def test_work_that_hangs_is_left_behind() -> None:
    exchange, hanging = alone(timeout_s=0.05), threading.Event()
    assert exchange.gather("x", lambda: hanging.wait(20))[0].error == "not finished within 0.05 s (--timeout-s)"
    assert exchange.stuck
    assert exchange.gather("y", lambda: 7)[0].value == 7
    hanging.set()


def test_a_lost_rank_is_named_once_and_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "GRACE_S", 0.05)
    exchange = Exchange(HashStore(), rank=0, world_size=2, node="a", timeout_s=0.05)
    _, lost = exchange.gather("x", lambda: 1)
    assert lost.node == "rank 1"
    assert lost.error.startswith("rank 1 gave no answer within 0.1 s")
    assert exchange.gather("y", lambda: 2) == [Answer(rank=0, node="a", value=2)]
    exchange.leave()


def test_a_rank_says_that_rank_0_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "GRACE_S", 0.01)
    exchange = Exchange(HashStore(), rank=3, world_size=4, node="d", timeout_s=0.05)
    with pytest.raises(YfccError, match=r"rank 3 on d: rank 0 is silent since check 'x' began"):
        exchange.gather("x", lambda: 1)


def test_an_answer_of_other_code_is_a_row() -> None:
    store = HashStore()
    exchange = Exchange(store, rank=0, world_size=2, node="a", timeout_s=5.0)
    said = pickle.dumps(Answer(rank=1, node="b", value=1)).replace(b"slip.doctor.exchange", b"slip.doctor.exchangf")
    exchange.say("x/1", said)
    _, other = exchange.gather("x", lambda: 1)
    assert other.error.startswith("its answer is not understood: ModuleNotFoundError")


def test_an_interrupt_waits_for_what_is_being_written() -> None:
    written: list[str] = []
    main = threading.main_thread().ident
    assert main is not None

    def write() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.1)
        written.append("the file")

    with pytest.raises(KeyboardInterrupt):
        alone().gather("x", write)
    assert written == ["the file"]


def test_errors_that_are_alike_share_a_row() -> None:
    answers: list[Answer[int]] = [
        Answer(rank=0, node="a", value=1),
        *(Answer(rank=rank, node=node, error="refused") for rank, node in ((1, "b"), (2, "c"), (3, "c"))),
        Answer(rank=4, node="d", error="gone"),
    ]
    assert failures("x", answers, "mend it") == [
        Finding(level="BAD", check="x", where=("b", "c"), found="refused", advice="mend it"),
        Finding(level="BAD", check="x", where=("d",), found="gone", advice="mend it"),
    ]
    fine = Finding(level="OK", check="x", where=("a",), found="1 value")
    seen: list[int] = []

    def judge(told: object) -> list[Finding]:
        assert isinstance(told, list)
        seen.append(len(told))
        return [fine]

    assert judged("x", answers, judge)[2:] == [fine]
    assert seen == [1]
    assert judged("x", answers[1:], judge) == failures("x", answers)
    assert seen == [1]


def test_an_error_fits_a_cell() -> None:
    assert in_one_line(OSError(28, "No space\nleft")) == "OSError: [Errno 28] No space left"
    assert in_one_line(StoreError("a\n b")) == "a b"
    assert len(in_one_line(ValueError("x" * 10_000))) == 400


def test_slurms_name_of_a_node_comes_first() -> None:
    assert node_name({"SLURMD_NODENAME": "gpu3"}) == "gpu3"
    assert node_name({})
