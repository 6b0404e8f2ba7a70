"""Wall time by category: every moment counts once, whatever happens in between."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists, sampled_from, tuples

from slip.goodput import CATEGORIES, Category, Goodput, duration, lost_seconds, process_started, start_ticks

ROOT = Path(__file__).resolve().parents[3]


class Clock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


seconds = floats(0, 1e4)


@given(
    calls=lists(tuples(sampled_from(["switch", "spend", "move"]), sampled_from(CATEGORIES), seconds, seconds)),
    before=sampled_from([{}, {"compute": 50.0, "lost": 5.0}]),
)
def test_categories_add_up_to_wall_time(
    calls: Sequence[tuple[str, Category, float, float]], before: dict[str, float]
) -> None:
    clock = Clock()
    goodput = Goodput(before, clock=clock, started=90.0)
    for call, category, first, second in calls:
        clock.now += first
        if call == "switch":
            goodput.switch(category)
        elif call == "spend":
            with goodput.spend(category):
                clock.now += second
        else:
            goodput.move("compute", category, second)
    clock.now += 1.0
    this = goodput.this_attempt()
    assert sum(this.values()) == pytest.approx(clock.now - 90.0)
    assert min(this.values()) >= 0.0
    assert sum(goodput.seconds().values()) == pytest.approx(clock.now - 90.0 + sum(before.values()))


def test_each_moment_goes_to_the_current_category() -> None:
    clock = Clock()
    goodput = Goodput(clock=clock, started=97.0)
    goodput.switch("compute")
    clock.now += 10
    with goodput.spend("data wait"):
        clock.now += 2
        with goodput.spend("checkpoint"):
            clock.now += 4
        clock.now += 1
    with suppress(KeyError), goodput.spend("evaluation"):
        clock.now += 5
        raise KeyError
    clock.now += 20
    goodput.move("compute", "communication", 6)
    expected = {"start": 3, "compute": 24, "data wait": 3, "communication": 6, "checkpoint": 4, "evaluation": 5}
    assert goodput.this_attempt() == expected | {"lost": 0}


def test_no_more_is_moved_than_there_is() -> None:
    clock = Clock()
    goodput = Goodput(clock=clock)
    goodput.switch("compute")
    clock.now += 2
    goodput.move("compute", "communication", 5)
    goodput.move("communication", "compute", -5)
    assert goodput.seconds() == dict.fromkeys(CATEGORIES, 0.0) | {"communication": 2.0}


def test_what_a_killed_attempt_lost_counts_to_all_attempts_only() -> None:
    clock = Clock()
    goodput = Goodput({"compute": 60.0, "of a later version": 1.0}, clock=clock)
    goodput.switch("compute")
    clock.now += 20
    goodput.add("lost", 20.0)
    assert goodput.this_attempt()["lost"] == 0.0
    assert goodput.seconds() == dict.fromkeys(CATEGORIES, 0.0) | {"compute": 80.0, "lost": 20.0}


def test_the_table() -> None:
    clock = Clock()
    goodput = Goodput({"compute": 3600.0}, clock=clock, started=90.0)
    goodput.switch("compute")
    clock.now += 30
    assert goodput.table().splitlines() == [
        "                      this attempt         all attempts",
        "start             0:00:10    25.0%     0:00:10     0.3%",
        "compute           0:00:30    75.0%     1:00:30    99.7%",
        "data wait         0:00:00     0.0%     0:00:00     0.0%",
        "communication     0:00:00     0.0%     0:00:00     0.0%",
        "checkpoint        0:00:00     0.0%     0:00:00     0.0%",
        "evaluation        0:00:00     0.0%     0:00:00     0.0%",
        "lost              0:00:00     0.0%     0:00:00     0.0%",
        "total             0:00:40   100.0%     1:00:40   100.0%",
        "goodput (share of compute): 75.0% of this attempt, 99.7% of all attempts",
    ]
    assert "all attempts" not in Goodput(clock=clock).table()


def recorded(*records: tuple[int, float | None]) -> bytes:
    found = [{"step": step} | ({} if at is None else {"time/unix_s": at}) for step, at in records]
    return b"".join(json.dumps(record).encode() + b"\n" for record in found)


def test_lost_seconds() -> None:
    lines = recorded((10, 100.0), (20, 110.0), (20, 113.5), (30, 120.5), (40, 131.5), (50, None))
    assert lost_seconds(lines, 20) == 18.0
    assert lost_seconds(lines, 25) == 18.0
    assert lost_seconds(lines, 30) == 11.0
    assert lost_seconds(lines, 40) == lost_seconds(lines, 99) == lost_seconds(b"", 0) == 0.0
    # Killed before its first checkpoint.
    assert lost_seconds(lines, 0) == 31.5
    assert lost_seconds(lines + b'{"step": 60, "time/unix_s": 99', 20) == 18.0
    assert lost_seconds(b"7\n" + recorded((1, None), (2, None)), 1) == 0.0
    assert lost_seconds(recorded((10, 100.0), (20, 90.0)), 10) == 0.0


def test_durations() -> None:
    assert [duration(seconds) for seconds in (3725, 59.6, None)] == ["1:02:05", "0:01:00", "-"]


def test_start_in_the_stat_of_a_process() -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    assert start_ticks(f"123 (a) b (c) S {fields}\n") == 22


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_a_process_knows_when_it_began() -> None:
    code = "import time; time.sleep(0.5); from slip.goodput import process_started as p; print(time.perf_counter()-p())"
    began = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    took = time.perf_counter() - began
    # The clock of processes ticks a hundred times a second.
    assert 0.49 <= float(run.stdout) <= took + 0.02


def test_where_the_system_does_not_tell_the_start_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    before = time.perf_counter()
    assert before <= process_started() <= time.perf_counter()
