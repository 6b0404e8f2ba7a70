"""The settings of runs as flat lists of names and values, and what differs between them.

In: `TrainConfig`s. Out: dotted names (optim.lr) with values, the nearest recipe, rows of differences. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from slip.config import TrainConfig
from slip.recipes import recipes

NOT_THE_RESULT = frozenset(
    {
        *("output", "wandb", "ledger", "log_every", "checkpoint_every", "keep_checkpoints", "rank_timeout_s"),
        *("data.workers", "data.prefetch_batches", "data.connections", "data.prefetch_mb", "data.cache"),
        *("data.cache_gb", "data.stall_warn_s", "data.colours", "eval.batch", "model.compile", "parallel"),
    }
)
"""Settings that say where and how fast a run goes, not what comes out of it."""


def flat(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its dotted name, in the order of the dataclasses: {"data.manifest": (...), ..., "seed": 0}."""
    found: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{one.name}.{inner.name}": getattr(value, inner.name) for inner in dataclasses.fields(value)}
        else:
            found[one.name] = value
    return found


def shown(value: Any) -> str:
    """A value for people: 0.003 -> "0.003", ("a", "b") -> "a b", () and None -> "none", True -> "yes"."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def differing(configs: Sequence[TrainConfig]) -> list[tuple[str, tuple[str, ...]]]:
    """The settings that are not the same in all, each with its values; [] for one configuration."""
    all_flat = [flat(config) for config in configs]
    rows = []
    for name in all_flat[0] if all_flat else ():
        values = [one[name] for one in all_flat]
        if any(value != values[0] for value in values):
            rows.append((name, tuple(map(shown, values))))
    return rows


def nearest_recipe(config: TrainConfig) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The recipe with the fewest other settings, and those: name -> (the recipe's, the run's).

    A run's files do not say what it began from. Where its data lies counts little, and what only decides the pace not
    at all.
    """
    ours = flat(config)

    def differences(of: TrainConfig) -> dict[str, tuple[Any, Any]]:
        theirs = flat(of)
        return {name: (theirs[name], value) for name, value in ours.items() if theirs[name] != value}

    def distance(found: dict[str, tuple[Any, Any]]) -> int:
        # Another network or objective is another recipe, whatever else is equal.
        heavy = ("model.tower", "objective.name", "objective.ssl", "objective.clip_view", "model.masking")
        return sum(8 if name in heavy else 1 for name in found if name not in NOT_THE_RESULT)

    found = {name: differences(of) for name, of in recipes().items()}
    name = min(found, key=lambda one: distance(found[one]))
    return name, {k: v for k, v in found[name].items() if k not in NOT_THE_RESULT}
