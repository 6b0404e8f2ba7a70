"""Small checkpoints for tests, and what is found of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from pipeline import store
from slip.checkpoint import State


def state(step: int, **changed: Any) -> State:
    """A checkpoint after so many steps."""
    made = State(
        step=step,
        samples=step * 8,
        model={"weight": torch.full((2, 3), float(step)), "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"state": {"weight": {"step": torch.tensor(float(step))}}, "param_groups": [{"betas": (0.9, 0.98)}]},
        ema=None,
        config={},
        data_sha256="a" * 64,
        objective="slip",
        gather="exact",
        lanes=4,
        skipped=0,
        random={},
        goodput={},
        versions={},
    )
    return replace(made, **changed)


def names(output: str) -> list[str]:
    """Files beside the checkpoints of a run, checkpoints included."""
    return store.list_names(store.join(output, "checkpoints"))


def found_best(output: str) -> int | None:
    """The step that best.json names, whatever else is there."""
    url = store.join(output, "checkpoints", "best.json")
    return int(json.loads(store.read_bytes(url))["step"]) if store.exists(url) else None
