"""Who is judged silent, by a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slip.beats import GOODBYE, AwakeClock, Beat, Judge, listed


def beat(rank: int, count: int, **changed: object) -> Beat:
    content = {"heard": count, "step": 57, "waits_s": None} | changed
    return Beat(rank=rank, host=f"node{rank}", pid=100 + rank, count=count, **content)  # type: ignore[arg-type]


@pytest.fixture
def judge() -> Judge:
    """Of ranks 1 to 3, by rank 0, from second 10 on."""
    return Judge([1, 2, 3], silent_s=30, slow_s=60, began=10)


def everybody(judge: Judge, count: int, at: float, *, but: tuple[int, ...] = (), **changed: object) -> None:
    judge.saw([beat(rank, count, **changed) for rank in (1, 2, 3) if rank not in but], at)


def test_a_beat_comes_back_as_it_was() -> None:
    for sent in (beat(2, 9), beat(0, 1, step=None, waits_s=1.5, end="StoreError: é", verdict="rank 1 is silent")):
        assert Beat.decode(sent.encode()) == sent


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "in step 57, at work"),
        ({"step": None}, "before the first step, at work"),
        ({"waits_s": 12.3}, "in step 57, waiting in a collective for 12 s"),
    ],
)
def test_what_a_rank_does_in_words(changed: dict[str, object], words: str) -> None:
    assert beat(2, 1, **changed).doing == words


def test_a_rank_is_lost_when_its_counter_stands_still_for_so_long(judge: Judge) -> None:
    everybody(judge, 1, 11)
    # The same beat read again is no sign of life.
    for at in range(12, 41):
        everybody(judge, 1 + at, at, but=(2,))
        judge.saw([beat(2, 1)], at)
        assert judge.verdict(at) is None
    everybody(judge, 99, 41, but=(2,))
    assert judge.verdict(41) == "rank 2 (node2, pid 102) is silent for 30 s; when last heard it was in step 57, at work"
    # It was only slow: a beat later nobody is lost.
    judge.saw([beat(2, 2)], 41.5)
    assert judge.verdict(41.5) is None


def test_a_rank_never_heard_of_is_silent_from_the_beginning(judge: Judge) -> None:
    for at in (12, 39.5):
        everybody(judge, int(at), at, but=(3,))
    assert judge.verdict(39.5) is None
    assert judge.verdict(40) == "rank 3 was never heard of"


def test_ranks_of_a_lost_node_are_named_together_the_first_first(judge: Judge) -> None:
    judge.saw([beat(1, 5, heard=8), beat(2, 5, heard=7), beat(3, 5, heard=5)], 12)
    judge.saw([beat(1, 6, heard=8)], 13)
    judge.saw([beat(3, 60, heard=60)], 41)
    verdict = judge.verdict(42)
    assert verdict is not None
    assert [part.partition(" (")[0] for part in verdict.split("; ") if part.startswith("rank")] == ["rank 2", "rank 1"]


def test_who_said_goodbye_is_never_lost(judge: Judge) -> None:
    everybody(judge, 1, 11, end=GOODBYE)
    assert judge.verdict(10_000) is None


def test_who_left_with_an_error_is_named_with_it(judge: Judge) -> None:
    everybody(judge, 1, 11)
    judge.saw([beat(1, 2, end="StoreError: s3://b/x: cannot read")], 12)
    everybody(judge, 3, 42, but=(1,))
    expected = "rank 1 (node1, pid 101) ended with an error in step 57, at work: StoreError: s3://b/x: cannot read"
    assert judge.verdict(42) == expected


def test_last_words_wait_for_the_living_who_have_not_read_them(judge: Judge) -> None:
    assert judge.unheard(1, 11, 3) == [1, 2, 3]
    everybody(judge, 5, 20, but=(3,), heard=7)
    judge.saw([beat(3, 5, heard=8)], 20)
    # Rank 0 says its last with its beat number 8: rank 3 has read it.
    assert judge.unheard(8, 20, 3) == [1, 2]
    judge.saw([beat(1, 6, heard=7, end=GOODBYE)], 21)
    assert judge.unheard(8, 21, 3) == [2]
    assert judge.unheard(8, 23, 3) == []


def test_those_who_keep_others_waiting_are_named_once_for_each_wait(judge: Judge) -> None:
    everybody(judge, 1, 11, but=(2,), waits_s=59.0)
    judge.saw([beat(2, 1)], 11)
    assert judge.slow(beat(0, 1, waits_s=60.0)) is None
    everybody(judge, 2, 12, but=(2,), waits_s=60.5)
    expected = "3 ranks have waited in a collective for up to 61 s for rank 2 (node2, pid 102), in step 57, at work"
    assert judge.slow(beat(0, 2, waits_s=61.0)) == expected
    assert judge.slow(beat(0, 3, waits_s=62.0)) is None
    # They meet, and wait again, this time for rank 0.
    everybody(judge, 4, 14, waits_s=0.5)
    assert judge.slow(beat(0, 4)) is None
    everybody(judge, 5, 15, waits_s=61.0)
    found = judge.slow(beat(0, 5, step=58))
    assert found is not None
    assert found.endswith("rank 0 (node0, pid 100), in step 58, at work")


def test_when_all_wait_nobody_is_blamed(judge: Judge) -> None:
    everybody(judge, 1, 11, waits_s=70.0)
    found = judge.slow(beat(0, 1, waits_s=70.0))
    assert found is not None
    assert found.startswith("4 ranks have waited in a collective for up to 70 s, and nobody does anything else")


@pytest.mark.parametrize(("count", "ending"), [(8, "; 7"), (9, "; 7; and 1 more"), (64, "; 7; and 56 more")])
def test_long_lists_are_cut(count: int, ending: str) -> None:
    assert listed([str(i) for i in range(count)]).endswith(ending)


def turned(moments: list[float]) -> Callable[[], float]:
    left = iter(moments)
    return lambda: next(left)


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    clock = AwakeClock(turned([100, 101, 102.5, 900, 901]), most_s=3)
    assert [clock.tick() for _ in range(4)] == [1, 2.5, 5.5, 6.5]
    assert clock.now == 6.5
