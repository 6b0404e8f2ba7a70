from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from pipeline.fetch import polite
from pipeline.fetch.polite import Hosts, RefusedError, placeholder_name, retry_after_s


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts(clock: Clock) -> Hosts:
    return Hosts(4, clock=clock, sleep=clock.sleep, jitter=lambda low, high: high)


def ask(hosts: Hosts, name: str, note: Callable[[float], None] | None = None, until: float = 1e9) -> float:
    """One whole request; returns when it was sent."""
    started = hosts.enter(name, until=until)
    if note is None:
        hosts.note_good(name, started)
    else:
        note(started)
    hosts.leave(name)
    return started


def fail(hosts: Hosts, name: str, status: int = 503, wait_s: float | None = None) -> float:
    return ask(hosts, name, lambda started: hosts.note_trouble(name, started, status=status, wait_s=wait_s))


def test_a_host_that_is_well_is_never_waited_for(hosts: Hosts, clock: Clock) -> None:
    for _ in range(100):
        ask(hosts, "a")
    assert clock.slept == []
    assert hosts._hosts == {}, "hosts that are well are not kept in memory"


def test_an_asked_for_pause_is_obeyed_by_all_and_only_for_that_host(hosts: Hosts, clock: Clock) -> None:
    asked_at = fail(hosts, "a", wait_s=30.0)
    assert ask(hosts, "b") == asked_at
    assert ask(hosts, "a") >= asked_at + 30


def test_a_long_pause_is_obeyed_without_waiting(hosts: Hosts, clock: Clock) -> None:
    fail(hosts, "a", wait_s=polite.LONGEST_WAIT_S + 1)
    with pytest.raises(RefusedError, match=polite.HOST_ASKS_FOR_PAUSE):
        ask(hosts, "a")
    assert clock.slept == []
    clock.now += polite.LONGEST_WAIT_S + 2
    ask(hosts, "a")


def test_single_errors_do_not_pause_a_host_but_a_row_of_them_does(hosts: Hosts, clock: Clock) -> None:
    for _ in range(50):
        fail(hosts, "a")
        ask(hosts, "a")
    assert clock.slept == []
    for _ in range(polite.TROUBLES_IN_A_ROW):
        fail(hosts, "a")
    ask(hosts, "a")
    assert sum(clock.slept) >= polite.FIRST_PAUSE_S


def test_urls_that_fail_again_and_again_do_not_pause_their_host(hosts: Hosts, clock: Clock) -> None:
    for _ in range(50):
        ask(hosts, "a", lambda started: hosts.note_trouble("a", started, status=500, is_first=False))
    ask(hosts, "a")
    assert clock.slept == []


def test_too_many_requests_pauses_at_once(hosts: Hosts, clock: Clock) -> None:
    fail(hosts, "a", status=429)
    ask(hosts, "a")
    assert sum(clock.slept) >= polite.FIRST_PAUSE_S


def test_pauses_grow_up_to_a_limit_and_are_forgotten_after_a_good_answer(hosts: Hosts, clock: Clock) -> None:
    sent = [fail(hosts, "a", status=429) for _ in range(12)]
    pauses = [later - earlier for earlier, later in pairwise(sent)]
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(pauses[:5]))
    assert all(pause <= polite.LONGEST_PAUSE_S * 1.25 for pause in pauses)
    assert pauses[-1] >= polite.LONGEST_PAUSE_S
    ask(hosts, "a")
    good_at = fail(hosts, "a", status=429)
    assert ask(hosts, "a") - good_at <= 2 * polite.FIRST_PAUSE_S


def test_many_threads_failing_at_once_make_one_pause(hosts: Hosts, clock: Clock) -> None:
    started = [hosts.enter("a", until=1e9) for _ in range(4)]
    for at in started:
        hosts.note_trouble("a", at, status=429)
        clock.now += 0.001
    for _ in started:
        hosts.leave("a")
    before = clock.now
    assert ask(hosts, "a") - before <= 1.25 * polite.FIRST_PAUSE_S


def test_nothing_is_sent_after_the_deadline(hosts: Hosts, clock: Clock) -> None:
    until = clock.now + 10
    ask(hosts, "a", until=until)
    fail(hosts, "a", wait_s=60.0)
    with pytest.raises(RefusedError, match=polite.DEADLINE_OVER):
        ask(hosts, "a", until=until)
    assert clock.now <= until


def test_never_more_than_the_limit_at_once() -> None:
    hosts = Hosts(3)
    active, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(40):
            started = hosts.enter("a", until=1e12)
            with lock:
                active[0] += 1
                most[0] = max(most[0], active[0])
            with lock:
                active[0] -= 1
            hosts.note_good("a", started)
            hosts.leave("a")

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 3
    assert hosts._hosts == {}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        (" 0 ", 0.0),
        ("Sat, 01 Jan 2022 00:00:10 GMT", 10.0),
        ("Fri, 31 Dec 2021 23:59:00 GMT", 0.0),
        ("9" * 40, 999_999_999.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        (None, None),
        ("Sat, 99 Jan 2022 00:00:10 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, 1640995200.0) == seconds


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://s.yimg.com/pw/images/en-us/photo_unavailable.png", "photo_unavailable.png"),
        ("https://combo.staticflickr.com/pw/images/en-us/photo_unavailable_l.png?v=2", "photo_unavailable_l.png"),
        ("/images/photo_unavailable.gif", "photo_unavailable.gif"),
        ("https://i.imgur.com/removed.png", "removed.png"),
        ("https://example.org/removed.png", ""),
        ("https://live.staticflickr.com/7205/6985418911_df7747990d.jpg", ""),
        ("https://example.org/photo_unavailable.png/other.jpg", ""),
    ],
)
def test_placeholders_are_known_by_name(url: str, name: str) -> None:
    assert placeholder_name(url) == name
