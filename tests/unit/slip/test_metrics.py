"""Metrics files, progress lines, rates; a resumed run leaves one curve."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists

from pipeline import store
from slip.config import TrainConfig
from slip.metrics import LiveLine, Metrics, StepClock, cut_after, progress_line


def lines(steps: list[int]) -> bytes:
    return b"".join(json.dumps({"step": step, "loss": step / 7}).encode() + b"\n" for step in steps)


@given(steps=lists(integers(0, 50)), cut=integers(-1, 51), torn=binary(max_size=12))
def test_lines_after_the_checkpoint_are_cut(steps: list[int], cut: int, torn: bytes) -> None:
    torn = torn.replace(b"\n", b"").replace(b"\r", b"")
    assert cut_after(lines(steps) + torn, cut) == lines([step for step in steps if step <= cut])


def test_a_torn_line_that_is_whole_json_is_dropped() -> None:
    assert cut_after(b'{"step": 1}\n{"step": 2}', 9) == b'{"step": 1}\n'


def records(output: str) -> list[dict[str, float]]:
    """What is in the file, without the moments."""
    found = [json.loads(line) for line in store.read_bytes(f"{output}/metrics.jsonl").splitlines()]
    return [{name: value for name, value in record.items() if name != "time/unix_s"} for record in found]


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_resumed_run_leaves_one_curve(tmp_path: Path, where: str) -> None:
    output = str(tmp_path / "run") if where == "local" else f"memory://{tmp_path.name}/run"
    config = TrainConfig(output=output)
    first = Metrics(config, resume_step=0, enabled=True)
    for step in range(1, 8):
        first.write({"step": step, "loss": 1.0 / step})
        if step == 4:
            first.put()
    # The process is killed after step 7; its newest checkpoint is that of step 4.
    if where == "memory":
        assert [record["step"] for record in records(output)] == [1, 2, 3, 4]
    found = store.read_bytes(f"{output}/metrics.jsonl")
    second = Metrics(config, resume_step=4, enabled=True)
    assert first.recorded == b""
    assert second.recorded == found
    second.write({"step": 5, "loss": 2.0})
    second.write({"step": 5, "zeroshot/top1": 0.5})
    second.close()
    first.close() if where == "local" else None
    assert [record["step"] for record in records(output)][:4] == [1, 2, 3, 4]
    assert records(output)[4:] == [{"step": 5, "loss": 2.0}, {"step": 5, "zeroshot/top1": 0.5}]
    assert json.loads(store.read_bytes(f"{output}/config.json"))["output"] == output
    assert any("tfevents" in name for name in store.list_names(f"{output}/tensorboard"))


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    metrics = Metrics(TrainConfig(output=str(tmp_path / "run")), resume_step=0, enabled=False)
    metrics.write({"step": 1})
    metrics.picture("views", np.zeros((8, 8, 3), dtype=np.uint8), 1)
    metrics.put()
    assert metrics.recorded == b""
    metrics.close()
    assert not (tmp_path / "run").exists()


def test_what_is_unknown_or_not_finite_is_left_out(tmp_path: Path) -> None:
    metrics = Metrics(TrainConfig(output=str(tmp_path)), resume_step=0, enabled=True)
    metrics.write({"step": 1, "loss": 2.0, "images_per_s": None, "grad_norm": float("inf")})
    metrics.close()
    assert records(str(tmp_path)) == [{"step": 1, "loss": 2.0}]


def test_rates_leave_out_the_first_steps() -> None:
    clock = StepClock(global_batch=10)
    assert clock.take() == (None, None, None)
    clock.add(step_s=100.0, data_s=100.0)
    clock.add(step_s=100.0, data_s=100.0)
    assert clock.eta_s(5) is None
    clock.add(step_s=2.0, data_s=0.5)
    clock.add(step_s=3.0, data_s=0.5)
    assert clock.take() == pytest.approx((20 / 5, 0.5, 0.2))
    clock.add(step_s=1.0, data_s=0.0)
    assert clock.take() == pytest.approx((10.0, 0.0, 0.0))
    assert clock.eta_s(4) == pytest.approx(8.0)


def test_one_line_for_people() -> None:
    record = {
        "step": 12,
        "loss": 3.0,
        "loss/clip": 1.0,
        "loss/byol": 2.0,
        "lr": 1e-3,
        "images_per_s": 640.4,
        "mfu": 0.41,
    }
    assert progress_line(record, steps=100, data_share=0.031, eta_s=3725) == (
        "step 12/100, 640 samples/s, MFU 41%, waits for data 3%, loss 3.0000 (clip 1.000 byol 2.000), lr 1.00e-03, "
        "ETA 1:02:05"
    )
    line = progress_line({"step": 1, "loss": 1.0, "lr": 0.1, "mfu": None}, steps=2, data_share=None, eta_s=None)
    assert line == "step 1/2, - samples/s, waits for data -, loss 1.0000, lr 1.00e-01, ETA -"
    assert progress_line({"step": 1}, steps=2, data_share=None, eta_s=5) == (
        "step 1/2, - samples/s, waits for data -, ETA 0:00:05"
    )


def test_records_hold_their_moment(tmp_path: Path) -> None:
    metrics = Metrics(TrainConfig(output=str(tmp_path)), resume_step=0, enabled=True)
    before = time.time()
    metrics.write({"step": 1})
    after = time.time()
    metrics.close()
    (record,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines())
    assert before - 0.05 <= record["time/unix_s"] <= after + 0.05
    assert record["time/unix_s"] == round(record["time/unix_s"], 1)


@pytest.mark.parametrize("where", ["local", "memory"])
def test_another_thread_may_put(tmp_path: Path, where: str) -> None:
    output = str(tmp_path / "run") if where == "local" else f"memory://{tmp_path.name}/threads"
    metrics = Metrics(TrainConfig(output=output), resume_step=0, enabled=True)
    steps, done = 300, threading.Event()
    seen: list[bytes] = []

    def write() -> None:
        for step in range(1, steps + 1):
            metrics.write({"step": step, "padding": 1 / 3})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        metrics.put()
        seen.append(store.read_bytes(f"{output}/metrics.jsonl"))
    writer.join()
    metrics.close()
    if where == "memory":
        for data in seen:
            assert data == b"" or data.endswith(b"\n")
            assert [json.loads(line)["step"] for line in data.splitlines()] == list(range(1, data.count(b"\n") + 1))
    assert [record["step"] for record in records(output)] == list(range(1, steps + 1))


def test_after_the_end_nothing_is_written(tmp_path: Path) -> None:
    metrics = Metrics(TrainConfig(output=f"memory://{tmp_path.name}/end"), resume_step=0, enabled=True)
    metrics.write({"step": 1})
    metrics.close()
    metrics.put()
    metrics.write({"step": 2})
    metrics.close()
    assert records(f"memory://{tmp_path.name}/end") == [{"step": 1}]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_live_line_is_cleared_before_a_log_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "11")
    now = [0.0]
    terminal = Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with LiveLine(terminal, clock=lambda: now[0]) as live:
            live.show("step 1")
            live.show("too soon")
            logging.getLogger("test").error("a record")
            logging.getLogger("test").error("another")
            now[0] = 1.0
            live.show("step 2 is too long")
        logging.getLogger("test").error("after")
    finally:
        logging.getLogger().removeHandler(handler)
    clear = "\r\x1b[K"
    assert terminal.getvalue() == f"{clear}step 1{clear}a record\nanother\n{clear}step 2 is {clear}after\n"
    assert handler.filters == []


def test_without_a_terminal_there_is_no_live_line() -> None:
    stream = io.StringIO()
    with LiveLine(stream) as live:
        live.show("step 1")
        live.clear()
    assert stream.getvalue() == ""
