"""Time is accounted for as a run that was made up second by second spent it."""

from __future__ import annotations

import pytest

from slip.pages.run_files import Record
from slip.pages.timing import Spent, spent

BATCH = 64


class MadeUpRun:
    """Keeps its own account of what its seconds went into."""

    def __init__(self) -> None:
        self.now, self.step = 5000.0, 0
        self.training = self.waiting = self.pauses = 0.0
        self.records: list[Record] = []

    def steps(self, count: int, *, step_s: float, wait_s: float, rate_known: bool = True) -> None:
        self.now += count * step_s
        self.step += count
        self.training += count * step_s
        self.waiting += count * wait_s
        values = {"lr": 1e-3, "time/unix_s": self.now}
        if rate_known:
            values |= {"images_per_s": BATCH / step_s, "time/data_s": wait_s}
        self.records.append(Record(step=self.step, values=values))

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += seconds

    def begin_account(self) -> None:
        """What came before the first record is not known to anybody."""
        self.training = self.waiting = self.pauses = 0.0


def accounted(run: MadeUpRun) -> Spent:
    found = spent(run.records, BATCH)
    assert found is not None
    return found


def test_steps_waiting_and_pauses_are_told_apart() -> None:
    run = MadeUpRun()
    run.steps(10, step_s=0.5, wait_s=0.1)
    run.begin_account()
    run.steps(10, step_s=0.5, wait_s=0.1)
    run.pause(20)  # a checkpoint
    run.steps(5, step_s=1.0, wait_s=0.75)
    run.records.append(Record(step=run.step, values={"zeroshot/top1": 0.5, "time/unix_s": run.now + 1}))
    run.pause(300)  # the node was lost
    run.steps(10, step_s=0.25, wait_s=0.0)

    found = accounted(run)

    assert found.wall_s == pytest.approx(run.training + run.pauses)
    assert found.training_s == pytest.approx(run.training)
    assert found.data_s == pytest.approx(run.waiting)
    assert found.elsewhere_s == pytest.approx(run.pauses)
    assert found.longest_pause_s == pytest.approx(300)
    assert found.pause_step == 25
    assert found.goodput == pytest.approx((run.training - run.waiting) / (run.training + run.pauses))


def test_a_record_without_a_pace_is_taken_at_the_median_one() -> None:
    run = MadeUpRun()
    run.steps(10, step_s=0.5, wait_s=0.0)
    run.begin_account()
    run.pause(7)
    run.steps(2, step_s=0.5, wait_s=0.0, rate_known=False)
    run.steps(10, step_s=0.5, wait_s=0.0)
    assert accounted(run).training_s == pytest.approx(run.training)
    assert accounted(run).elsewhere_s == pytest.approx(7)


def test_a_clock_that_goes_back_makes_no_time_negative() -> None:
    run = MadeUpRun()
    run.steps(10, step_s=0.5, wait_s=0.1)
    run.now -= 3600
    run.steps(10, step_s=0.5, wait_s=0.1)
    run.steps(10, step_s=0.5, wait_s=0.1)
    found = accounted(run)
    assert [found.wall_s, found.training_s, found.elsewhere_s] == pytest.approx([5, 5, 0])


def test_too_few_records_give_no_account() -> None:
    run = MadeUpRun()
    assert spent(run.records, BATCH) is None
    run.steps(10, step_s=0.5, wait_s=0.1)
    assert spent(run.records, BATCH) is None
    run.records.append(Record(step=20, values={"lr": 1.0}))
    assert spent(run.records, BATCH) is None
