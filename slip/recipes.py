"""Named starting points: complete settings that a command line then changes field by field.

`demo` trains on the embedded sample within minutes on two cores. The others are published recipes, all with a global
batch of 4096: SLIP's (2112.12750, sec. 4 and appendix) for CLIP, SimCLR and SLIP; its ablations (sec. 5); and the
masked towers of FLIP and A-CLIP, which cost less. Names are OBJECTIVE_TOWER_DATA_EPOCHS.
"""

from __future__ import annotations

import dataclasses
import difflib

from pipeline.errors import ConfigError
from slip.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TowerName,
    TrainConfig,
)

DEFAULT_RECIPE = "demo"
_TOWERS: tuple[TowerName, ...] = ("vits16", "vitb16", "vitl16")
# Peak learning rate and weight decay as published by SLIP.
_CLIP, _SIMCLR, _SLIP = (5e-4, 0.5), (3.2e-3, 0.1), (3e-3, 0.1)
# Data set, epochs and warm-up epochs as published by SLIP.
_YFCC15M, _CC3M, _CC12M = ("yfcc15m", 25, 1), ("cc3m", 40, 2), ("cc12m", 35, 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What is trained, apart from tower and data."""

    objective: ObjectiveConfig
    optim: tuple[float, float]
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    ssl_data: str | None = None


_KINDS: dict[str, _Kind] = {
    "clip": _Kind(objective=ObjectiveConfig(name="clip"), optim=_CLIP),
    "simclr": _Kind(objective=ObjectiveConfig(name="simclr"), optim=_SIMCLR),
    "slip": _Kind(objective=ObjectiveConfig(name="slip"), optim=_SLIP),
}
_ABLATIONS: dict[str, _Kind] = {
    # CLIP on the views that SimCLR sees: is it the augmentation?
    "clip_strong": _Kind(objective=ObjectiveConfig(name="clip", clip_view="ssl"), optim=_CLIP),
    # The SSL term on pictures of another data set: is it more pictures, or both tasks on the same?
    "slip_apart": _Kind(objective=ObjectiveConfig(name="slip"), optim=_SLIP, ssl_data="yfcc85m"),
    # Other frameworks of self-supervision. MoCo v3's momentum is that of its ViT (2104.02057), BYOL's its own
    # (2006.07733).
    "slip_mocov3": _Kind(objective=ObjectiveConfig(name="slip", ssl=("mocov3",), momentum=0.99), optim=_SLIP),
    "slip_byol": _Kind(objective=ObjectiveConfig(name="slip", ssl=("byol",), momentum=0.996), optim=_SLIP),
    "slip_mim": _Kind(objective=ObjectiveConfig(name="slip", ssl=("mim",)), optim=_SLIP),
    "siglip": _Kind(objective=ObjectiveConfig(name="siglip"), optim=_CLIP),
    "mocov3": _Kind(objective=ObjectiveConfig(name="mocov3", momentum=0.99), optim=_SIMCLR),
    # Half of the patches, at random (2212.00794).
    "flip": _Kind(objective=ObjectiveConfig(name="clip"), optim=_CLIP, model=ModelConfig(masking="random")),
    # Half of the patches, those a momentum tower attends to, at half the resolution; both views are matched with the
    # caption (2212.08653). Its code weighs the mean of BYOL's two distances by 2, which is their sum here.
    "aclip": _Kind(
        objective=ObjectiveConfig(name="slip", ssl=("simclr", "byol"), clip_view="shared", momentum=0.996),
        optim=_CLIP,
        model=ModelConfig(masking="attentive", momentum_scale=0.5),
    ),
}


def _recipe(kind_name: str, tower: TowerName, data: tuple[str, int, int]) -> tuple[str, TrainConfig]:
    kind = {**_KINDS, **_ABLATIONS}[kind_name]
    data_name, epochs, warmup = data
    name = f"{kind_name}_{tower}_{data_name}_{epochs}ep"
    lr, weight_decay = kind.optim
    return name, TrainConfig(
        data=DataConfig(
            manifest=(f"data/{data_name}/manifest.json",),
            ssl_manifest=(f"data/{kind.ssl_data}/manifest.json",) if kind.ssl_data else (),
        ),
        model=dataclasses.replace(kind.model, tower=tower),
        objective=kind.objective,
        optim=OptimConfig(lr=lr, weight_decay=weight_decay, epochs=epochs, warmup_epochs=warmup),
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
    published = [_recipe(kind, tower, _YFCC15M) for tower in _TOWERS for kind in _KINDS]
    published += [_recipe("slip", tower, ("yfcc15m", epochs, 1)) for tower in _TOWERS for epochs in (50, 100)]
    published += [_recipe(kind, "vitb16", data) for data in (_CC3M, _CC12M) for kind in ("clip", "slip")]
    published += [_recipe(kind, "vitb16", _YFCC15M) for kind in _ABLATIONS]
    return {"demo": _demo(), **dict(published)}


def recipe(name: str) -> TrainConfig:
    """The recipe called `name`; ConfigError naming near ones when there is none."""
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"no recipe is called {name!r}; {'near: ' + ', '.join(near) + '; ' if near else ''}all: {', '.join(known)}"
        )
    return known[name]
