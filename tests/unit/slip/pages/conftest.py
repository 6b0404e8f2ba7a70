from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from slip.config import TrainConfig
from slip.evaluate.report import Outcome, Subject, to_json
from slip.evaluate.score import Score
from slip.recipes import recipe

Records = Sequence[dict[str, Any]]
MakeRun = Callable[..., str]


def demo_records(count: int = 12, *, every: int = 10, per_epoch: float = 20.0) -> list[dict[str, Any]]:
    """As training writes them: a loss that falls, two terms, a zero-shot accuracy at the end."""
    found: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        step, loss = number * every, 9.0 / number
        record = {"step": step, "epoch": step / per_epoch, "loss": loss, "loss/clip": loss / 3, "loss/simclr": loss / 2}
        record |= {"lr": 1e-3 / number, "images_per_s": 640.0, "time/data_s": 0.01, "mfu": 0.25, "grad_norm": 2.0}
        found.append({**record, "memory/peak_bytes": 2.5e9, "skipped": 0, "time/unix_s": 1000.0 + 2.0 * number})
    if found:
        at = {"step": found[-1]["step"], "time/unix_s": found[-1]["time/unix_s"] + 1}
        found.append({**at, "zeroshot/top1": 0.5, "zeroshot/top5": 0.9})
    return found


def evaluation(scores: Sequence[Score], *, step: int = 120, weights: str = "model", **more: Any) -> bytes:
    """A file of `slip evaluate`, written by its own code."""
    subject = Subject(
        checkpoint="x.pt",
        weights_sha256="ab" * 32,
        step=step,
        weights=weights,
        objective="slip",
        tower="tiny",
        image_size=32,
        precision="fp32",
        epochs=10.0,
        versions={},
        trained_with={"torch": "2.11"},
    )
    # The same question twice is one about two sets of one name.
    asked = [(one.protocol, one.set, one.metric) for one in scores]
    outcomes = [
        Outcome(asked=one.protocol, set=one.set, url=f"/{asked[:i].count(key)}/{one.set}", settings={}, scores=(one,))
        for i, (one, key) in enumerate(zip(scores, asked, strict=True))
    ]
    outcomes += more.get("unread", [])
    return to_json(subject, outcomes, more.get("outstanding", ()))


def score(value: float = 0.4, *, name: str = "cifar10", protocol: str = "zeroshot", **more: Any) -> Score:
    content = {"set": name, "protocol": protocol, "metric": "accuracy", "value": value, "pictures": 100, "classes": 10}
    return Score(**{**content, **more})


def lines(records: Records) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run's files and gives its folder."""

    def make(
        name: str = "run",
        config: TrainConfig | None = None,
        records: Records | None = None,
        *,
        base: str | None = None,
        evaluations: dict[str, bytes] | None = None,
        checkpoints: Sequence[int] = (),
    ) -> str:
        url = store.join(base or str(tmp_path), name)
        settings = dataclasses.asdict(config or recipe("demo"))
        store.write_bytes(store.join(url, "config.json"), json.dumps(settings).encode())
        store.write_bytes(store.join(url, "metrics.jsonl"), lines(demo_records() if records is None else records))
        for file, data in (evaluations or {}).items():
            store.write_bytes(store.join(url, "evaluation", file), data)
        for step in checkpoints:
            store.write_bytes(store.join(url, "checkpoints", f"step-{step:08d}.pt"), b"")
        return url

    return make
