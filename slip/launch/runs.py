"""The runs of a launch: recipes x seeds, each with an output of its own and the arguments of `slip train` that make it.

In: a request. Out: plain records. The arguments are made from the settings, not cut out of the command line: they hold
what differs from the recipe, and reading them again must give the settings (it is tried here).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import store
from pipeline.errors import ConfigError
from slip import train
from slip.config import TrainConfig
from slip.launch.settings import Request
from slip.recipes import recipe

_BASE = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training."""

    recipe: str
    config: TrainConfig
    arguments: tuple[str, ...]
    """Of `slip train`."""


def _differences(found: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Option and value of each setting that is not the default's."""
    for one in dataclasses.fields(found):
        value, usual = getattr(found, one.name), getattr(default, one.name)
        option = prefix + one.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _differences(value, usual, f"{option}.")
        elif value != usual:
            yield option, value


def train_arguments(name: str, config: TrainConfig) -> tuple[str, ...]:
    """The arguments of `slip train` for settings that began as recipe `name`.

    demo with a learning rate of 0.001 and without evaluation -> ("demo", "--optim.lr", "0.001", "--eval.zeroshot",
    "None"); with --output -x -> ("demo", "--output=-x").
    """
    words = [name]
    for option, value in _differences(config, recipe(name)):
        if isinstance(value, bool):
            *parents, last = option.split(".")
            words.append("--" + ".".join([*parents, last if value else f"no-{last}"]))
        elif isinstance(value, tuple):
            words += [f"--{option}", *map(str, value)]
        elif str(value).startswith("-"):
            words.append(f"--{option}={value}")
        else:
            words += [f"--{option}", str(value)]
    try:
        again = train.parse(words)
    except SystemExit:
        again = None
    if again != config:
        raise ConfigError(f"these settings cannot be handed on to slip train: {words}; is a value like an option?")
    return tuple(words)


def runs_of(request: Request) -> tuple[Run, ...]:
    """All runs: recipes in the order given, each with its seeds."""
    seeds = request.config.seeds
    if seeds and request.gives("--seed"):
        raise ConfigError("--seed and --seeds: give one of the two")
    several = len(request.configs) * max(1, len(seeds)) > 1
    found = []
    for name, config in request.configs:
        base = config.run.output if request.gives("--output") else _BASE
        for seed in seeds or (config.run.seed,):
            parts = [name, *([f"seed-{seed}"] if len(seeds) > 1 else [])]
            output = store.join(base, *parts) if several else config.run.output
            settings = dataclasses.replace(config.run, seed=seed, output=output)
            found.append(Run(recipe=name, config=settings, arguments=train_arguments(name, settings)))
    twice = [output for output, count in Counter(run.config.output for run in found).items() if count > 1]
    if twice:
        raise ConfigError(f"two runs would write to {twice[0]}; launch them apart, each with an --output")
    return tuple(found)
