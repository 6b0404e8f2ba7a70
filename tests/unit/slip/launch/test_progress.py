"""How far a run is, from its metrics."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from slip.config import OptimConfig, TrainConfig
from slip.launch.progress import Progress, progress_of, read_progress
from slip.schedule import total_steps


def settings(**changes: Any) -> dict[str, Any]:
    config = TrainConfig(optim=OptimConfig(global_batch=100, epochs=3), **changes)
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return found


def lines(*records: dict[str, float]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_the_newest_record_tells() -> None:
    records = lines(
        {"step": 10, "epoch": 1.0, "loss": 5.0},
        {"step": 15, "epoch": 1.5, "loss": 4.5, "images_per_s": 50.0},
        {"step": 15, "zeroshot/top1": 0.5},
    )
    expected = Progress(step=15, last_step=30, loss=4.5, images_per_s=50.0, eta_s=15 * 100 / 50)
    assert progress_of(records, settings()) == expected
    assert progress_of(records + b'{"step": 99, "epo', settings()) == expected
    assert progress_of(b'ch": 3}\n' + records, settings()) == expected


@pytest.mark.parametrize("samples", [1, 333, 1000, 14_690_000])
def test_the_last_step_is_that_of_the_schedule(samples: int) -> None:
    expected = total_steps(OptimConfig(global_batch=100, epochs=3), steps_per_epoch=samples / 100)
    for step in (1, 7, 1000):
        found = progress_of(lines({"step": step, "epoch": step / (samples / 100)}), settings())
        assert found is not None
        assert found.last_step == expected


def test_a_run_may_stop_before_its_schedule() -> None:
    found = progress_of(lines({"step": 5, "epoch": 0.5, "images_per_s": 100.0}), settings(max_steps=8))
    assert found is not None
    assert (found.last_step, found.eta_s, found.loss) == (8, 3, None)


def test_without_records_there_is_no_progress() -> None:
    assert progress_of(b"", settings()) is None
    assert progress_of(lines({"step": 3, "zeroshot/top1": 0.5}), settings()) is None


def test_it_is_read_where_the_run_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config-0.json"
    file.write_text(json.dumps(settings()))
    output = tmp_path / "w/runs/ü"
    output.mkdir(parents=True)
    assert read_progress("runs/ü", file, tmp_path / "w") is None
    # Longer than what is read of it.
    records = ({"step": step, "epoch": step / 10} for step in range(1, 5000))
    (output / "metrics.jsonl").write_bytes(lines(*records))
    for url in ("runs/ü", str(output), f"file://{output}"):
        found = read_progress(url, file, tmp_path / "w")
        assert found is not None
        assert found.step == 4999
    with caplog.at_level(logging.WARNING):
        assert read_progress("runs/ü", tmp_path / "none.json", tmp_path / "w") is None
    assert "progress is not known" in caplog.text
