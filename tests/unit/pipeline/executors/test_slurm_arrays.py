"""What becomes of units whose tasks fail, vanish or hang; Slurm is played by a dictionary, tasks by a function."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import BuildConfig, SlurmConfig
from pipeline.errors import StoreError
from pipeline.executors import slurm_arrays
from pipeline.executors.slurm_arrays import SlurmArrays
from pipeline.executors.slurm_queue import Task
from pipeline.records import unit_name
from pipeline.selection.selection import part_path

CONFIG = BuildConfig(
    metadata=("rows.tsv",),
    subset_list="list.tsv",
    output="replaced",
    executor="slurm",
    slurm=SlurmConfig(units_per_task=2, max_tasks=3),
)
Behaviour = Callable[["FakeQueue", str, str, Path, Sequence[int]], Task | None]


class FakeQueue:
    """Slurm; `behaviour` plays a task when it is submitted and says how it stands in the queue afterwards."""

    behaviour: Behaviour
    left: dict[str, dict[str, Task]]
    arrays: list[tuple[str, list[list[int]]]]
    cancelled: list[str]

    def __init__(self, kind: str, work: Path, settings: SlurmConfig) -> None:
        self.name, self.kind, self.work = f"yfcc15m-{kind}", kind, work
        self.queued = dict(self.left.get(kind, {}))

    def submit(self, function: object, calls: Sequence[tuple[Any, ...]]) -> dict[str, Path]:
        self.arrays.append((self.kind, [list(units) for _, _, _, units, _ in calls]))
        logs = {}
        for index, (kind, _, work, units, _) in enumerate(calls):
            name = f"{len(self.arrays)}_{index}"
            logs[name] = work / f"{name}.log"
            logs[name].write_text(f"line 1\nthe task {name} has failed\n")
            state = FakeQueue.behaviour(self, name, kind, work, units)
            if state is not None:
                self.queued[name] = state
        return logs

    def tasks(self) -> dict[str, Task]:
        return dict(self.queued)

    def cancel(self, tasks: Sequence[str] | None = None) -> None:
        for name in list(self.queued) if tasks is None else tasks:
            self.queued.pop(name, None)
            self.cancelled.append(name)


def make(kind: str, work: Path, units: Sequence[int]) -> None:
    """What a task leaves of units that it has done."""
    for unit in units:
        name = unit_name(unit)
        if kind == "fetch":
            (work / "fetched" / f"{name}.tar").touch()
            (work / "fetched" / f"{name}.parquet").touch()
        else:
            (work / "sealed" / f"{name}.json").touch()
            (work / "fetched" / f"{name}.tar").unlink(missing_ok=True)


def succeed(queue: FakeQueue, name: str, kind: str, work: Path, units: Sequence[int]) -> Task | None:
    make(kind, work, units)
    return None


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(slurm_arrays, "Queue", FakeQueue)
    monkeypatch.setattr(slurm_arrays, "check_slurm", lambda: None)
    monkeypatch.setattr(slurm_arrays, "longest_array", lambda: 1000)
    for name in ("LOOK_EVERY_S", "ASK_EVERY_S", "GONE_S"):
        monkeypatch.setattr(slurm_arrays, name, 0.0)
    monkeypatch.setattr(FakeQueue, "behaviour", staticmethod(succeed), raising=False)
    for name, value in (("left", {}), ("arrays", []), ("cancelled", [])):
        monkeypatch.setattr(FakeQueue, name, value, raising=False)
    for unit in range(20):
        path = part_path(tmp_path, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"key": ["a", "b", "c"]}), path)
    return tmp_path


def behave(monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour) -> None:
    monkeypatch.setattr(FakeQueue, "behaviour", staticmethod(behaviour))


def test_units_go_into_tasks_and_arrays_in_order(work: Path) -> None:
    slurm = SlurmArrays(CONFIG, work, None)
    assert slurm.group_size == 6
    assert sorted(slurm.fetch(range(9))) == list(range(9))
    assert sorted(slurm.seal([0, 1, 2])) == [0, 1, 2]
    assert FakeQueue.arrays == [
        ("fetch", [[0, 1], [2, 3], [4, 5]]),
        ("fetch", [[6, 7], [8]]),
        ("seal", [[0, 1], [2]]),
    ]
    assert FakeQueue.cancelled == []


def test_the_clusters_limit_bounds_an_array(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_arrays, "longest_array", lambda: 2)
    assert SlurmArrays(CONFIG, work, None).group_size == 4


def test_what_is_done_is_not_submitted(work: Path) -> None:
    slurm = SlurmArrays(CONFIG, work, None)
    make("fetch", work, [0, 2])
    assert sorted(slurm.fetch([0, 1, 2, 3])) == [0, 1, 2, 3]
    assert FakeQueue.arrays == [("fetch", [[1, 3]])]


def test_a_unit_sealed_before_its_pictures_came_again_is_sealed_again(work: Path) -> None:
    slurm = SlurmArrays(CONFIG, work, None)
    make("fetch", work, [0])
    make("seal", work, [0])
    make("fetch", work, [0])
    assert list(slurm.seal([0])) == [0]
    assert FakeQueue.arrays == [("seal", [[0]])]
    assert list(slurm.seal([0])) == [0]
    assert len(FakeQueue.arrays) == 1


def test_only_what_a_dead_task_left_undone_is_submitted_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(queue: FakeQueue, name: str, kind: str, work: Path, units: Sequence[int]) -> Task | None:
        make(kind, work, units[:1] if name == "1_1" else units)
        return None

    behave(monkeypatch, die)
    assert sorted(SlurmArrays(CONFIG, work, None).fetch(range(6))) == list(range(6))
    assert FakeQueue.arrays[1:] == [("fetch", [[3]])]


def test_units_that_fail_every_time_end_the_build_with_the_log(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, lambda queue, name, kind, work, units: None)
    with pytest.raises(StoreError, match=r"without unit 00000, 00001, as 3 .*4_0.log.*the task 4_0 has failed"):
        list(SlurmArrays(CONFIG, work, None).fetch([0, 1]))
    assert len(FakeQueue.arrays) == 4


def test_a_task_without_a_log_points_at_the_work_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(queue: FakeQueue, name: str, kind: str, work: Path, units: Sequence[int]) -> Task | None:
        (work / f"{name}.log").unlink()
        return None

    behave(monkeypatch, vanish)
    with pytest.raises(StoreError, match="share"):
        list(SlurmArrays(CONFIG, work, None).fetch([0]))


def test_a_task_that_slurm_starts_again_is_waited_for(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was on a lost node: for a moment it is not in the queue, then it waits, then it runs."""
    monkeypatch.setattr(slurm_arrays, "GONE_S", 1e9)
    behave(monkeypatch, lambda queue, name, kind, work, units: None)
    steps = itertools.count()

    def tasks(self: FakeQueue) -> dict[str, Task]:
        step = next(steps)
        if step == 8:
            make("fetch", self.work, [0])
        return {"1_0": Task("PENDING" if step < 6 else "RUNNING", "BeginTime")} if 4 <= step < 8 else {}

    monkeypatch.setattr(FakeQueue, "tasks", tasks)
    assert list(SlurmArrays(CONFIG, work, None).fetch([0])) == [0]
    assert len(FakeQueue.arrays) == 1


def test_a_held_task_is_cancelled_and_its_units_submitted_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(queue: FakeQueue, name: str, kind: str, work: Path, units: Sequence[int]) -> Task | None:
        if name == "1_0":
            return Task("PENDING", "launch failed requeued held")
        return succeed(queue, name, kind, work, units)

    behave(monkeypatch, hold)
    assert list(SlurmArrays(CONFIG, work, None).fetch([0])) == [0]
    assert FakeQueue.cancelled == ["1_0"]


def test_a_silent_slurm_is_asked_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, lambda queue, name, kind, work, units: None)
    slurm = SlurmArrays(CONFIG, work, None)
    steps = itertools.count()

    def tasks(self: FakeQueue) -> dict[str, Task]:
        if next(steps) == 5:
            make("fetch", self.work, [0])
        raise StoreError("squeue gave no answer")

    monkeypatch.setattr(FakeQueue, "tasks", tasks)
    assert list(slurm.fetch([0])) == [0]
    assert len(FakeQueue.arrays) == 1


def test_tasks_of_a_killed_driver_are_cancelled_first(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeQueue, "left", {"seal": {"7_0": Task("RUNNING", "None")}})
    SlurmArrays(CONFIG, work, None)
    assert FakeQueue.cancelled == ["7_0"]


def test_closing_cancels_what_runs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(queue: FakeQueue, name: str, kind: str, work: Path, units: Sequence[int]) -> Task | None:
        make(kind, work, units if name == "1_0" else [])
        return Task("RUNNING", "None")

    behave(monkeypatch, run)
    units = SlurmArrays(CONFIG, work, None).fetch([0, 1, 2, 3])
    assert [next(units), next(units)] == [0, 1]
    units.close()
    assert FakeQueue.cancelled == ["1_1"]


def test_closing_ends_what_another_thread_waits_for(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = threading.Event()

    def run(queue: FakeQueue, name: str, kind: str, work: Path, units: Sequence[int]) -> Task | None:
        submitted.set()
        return Task("RUNNING", "None")

    behave(monkeypatch, run)
    slurm = SlurmArrays(CONFIG, work, None)
    with ThreadPoolExecutor(1) as background:
        sealing = background.submit(lambda: list(slurm.seal([4, 5, 6, 7])))
        assert submitted.wait(10)
        slurm.close()
        assert sealing.result(10) == []
    assert {"1_0", "1_1"} <= set(FakeQueue.cancelled)
