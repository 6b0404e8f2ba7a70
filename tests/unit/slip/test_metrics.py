"""Metrics files, progress lines, rates; a resumed run leaves one curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists

from pipeline import store
from slip.config import TrainConfig
from slip.metrics import Metrics, StepClock, cut_after, duration, progress_line


def lines(steps: list[int]) -> bytes:
    return b"".join(json.dumps({"step": step, "loss": step / 7}).encode() + b"\n" for step in steps)


@given(steps=lists(integers(0, 50)), cut=integers(-1, 51), torn=binary(max_size=12))
def test_lines_after_the_checkpoint_are_cut(steps: list[int], cut: int, torn: bytes) -> None:
    torn = torn.replace(b"\n", b"").replace(b"\r", b"")
    assert cut_after(lines(steps) + torn, cut) == lines([step for step in steps if step <= cut])


def test_a_torn_line_that_is_whole_json_is_dropped() -> None:
    assert cut_after(b'{"step": 1}\n{"step": 2}', 9) == b'{"step": 1}\n'


def records(output: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in store.read_bytes(f"{output}/metrics.jsonl").splitlines()]


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
    second = Metrics(config, resume_step=4, enabled=True)
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
    metrics.put()
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
    record = {"step": 12, "loss": 3.0, "loss/clip": 1.0, "loss/ssl": 2.0, "lr": 1e-3, "images_per_s": 640.4}
    line = progress_line(record, steps=100, data_share=0.031, eta_s=3725)
    for part in ("step 12/100", "loss 3.0000 (clip 1.000 ssl 2.000)", "640 samples/s", "3%", "lr 1.00e-03", "1:02:05"):
        assert part in line
    assert "ETA -" in progress_line({"step": 1, "loss": 1.0, "lr": 0.1}, steps=2, data_share=None, eta_s=None)
    assert duration(59.6) == "0:01:00"
