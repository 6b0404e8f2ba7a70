"""Named starting points: complete settings that a command line then changes field by field.

`demo` trains on the embedded sample within minutes on two cores. The others are the published recipes of SLIP
(arXiv 2112.12750, section 4 and appendix): 25 epochs of YFCC15M with a global batch of 4096.
"""

from __future__ import annotations

import difflib

from pipeline.errors import ConfigError
from slip.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    ObjectiveConfig,
    ObjectiveName,
    OptimConfig,
    TowerName,
    TrainConfig,
)

DEFAULT_RECIPE = "demo"
# Peak learning rate and weight decay of each objective.
_PUBLISHED: dict[ObjectiveName, tuple[float, float]] = {
    "clip": (5e-4, 0.5),
    "simclr": (3.2e-3, 0.1),
    "slip": (3e-3, 0.1),
}
_PUBLISHED_TOWERS: tuple[TowerName, ...] = ("vits16", "vitb16", "vitl16")


def _published(objective: ObjectiveName, tower: TowerName) -> TrainConfig:
    name = f"{objective}_{tower}_yfcc15m_25ep"
    lr, weight_decay = _PUBLISHED[objective]
    return TrainConfig(
        data=DataConfig(manifest=("data/yfcc15m/manifest.json",)),
        model=ModelConfig(tower=tower),
        objective=ObjectiveConfig(name=objective),
        optim=OptimConfig(lr=lr, weight_decay=weight_decay),
        output=f"runs/{name}",
    )


def _demo() -> TrainConfig:
    return TrainConfig(
        data=DataConfig(manifest=("data/yfcc15m-sample/manifest.json",)),
        model=ModelConfig(tower="tiny", image_size=32, context_length=32, ssl_hidden=256, ssl_dim=64, embed_dim=128),
        objective=ObjectiveConfig(name="slip"),
        optim=OptimConfig(global_batch=64, epochs=10, lr=2e-3, warmup_epochs=1),
        eval=EvalConfig(zeroshot="data/sample/heldout", every_epochs=2),
        output="runs/demo",
        log_every=10,
        checkpoint_every=100,
    )


def recipes() -> dict[str, TrainConfig]:
    """All recipes by name, the demonstration first."""
    published = [_published(objective, tower) for tower in _PUBLISHED_TOWERS for objective in _PUBLISHED]
    return {"demo": _demo()} | {config.output.removeprefix("runs/"): config for config in published}


def recipe(name: str) -> TrainConfig:
    """The recipe called `name`; ConfigError naming near ones when there is none."""
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"no recipe is called {name!r}; {'near: ' + ', '.join(near) + '; ' if near else ''}all: {', '.join(known)}"
        )
    return known[name]
