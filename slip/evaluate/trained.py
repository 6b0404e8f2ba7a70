"""A trained model out of a checkpoint, for whoever evaluates it: shape and weights, and no more of the run than that.

In: a checkpoint's URL, or a run's; a checkpoint of the published code is one too. Out: the network with the weights or
their average, on the CPU. The shape is that of the checkpoint's own settings: nobody has to name the recipe again.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pipeline import store
from pipeline.errors import CheckpointError, ConfigError
from slip import checkpoint
from slip.config import ModelConfig, ObjectiveConfig, TrainConfig
from slip.interchange.released import is_released, read_released
from slip.models.model import Model
from slip.models.registry import build_model

Weights = Literal["model", "average"]
_Settings = TypeVar("_Settings", ModelConfig, ObjectiveConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Which checkpoint it is."""

    url: str
    output: str | None
    """The run it belongs to, None for a file that lies elsewhere."""
    why: str
    """In words: named, or the run's best or newest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A network with trained weights."""

    model: Model
    config: ModelConfig
    objective: ObjectiveConfig
    weights: Weights
    has_average: bool
    """Whether the checkpoint has both, the weights and their average."""
    precision: str
    """As the run was told: auto, bf16 or fp32."""
    step: int
    """Optimizer steps done; 0 where a released checkpoint does not say."""
    versions: dict[str, str]
    """Of what trained it; none of a released checkpoint."""
    data_sha256: str | None
    """What it was trained on, as its checkpoint says; None of a released one."""
    epochs: float | None = None
    """Passes over the data set, as a released checkpoint says; None of one of a run, whose settings say it."""


def find(where: str) -> Found:
    """The checkpoint that a file or a run's folder stands for: of a run the best, else the newest."""
    where = where.rstrip("/")
    folder, name = store.parent(where), where.rpartition("/")[2]
    if name.endswith(".pt"):
        # As "step-00001200.pt" alone lies in the current folder, whatever that is called.
        inside = folder.rpartition("/")[2] == checkpoint.FOLDER
        return Found(url=where, output=store.parent(folder) if inside else None, why="named")
    output = folder if name == checkpoint.FOLDER else where
    best = checkpoint.best(output)
    if best is not None:
        return Found(url=best[0], output=output, why=f"the best of its run, zero-shot {best[1]:.1%}")
    newest = checkpoint.newest(output)
    if newest is not None:
        return Found(url=newest, output=output, why="the newest of its run, of which none was evaluated")
    if store.size(where) is not None:
        return Found(url=where, output=None, why="named")
    raise CheckpointError(
        f"{where}: neither a checkpoint nor a run: there is no {checkpoint.FOLDER}/step-*.pt in it; give the file, or "
        "the --output of slip train"
    )


def _checked(value: Any, kind: Any) -> Any:
    """The value if it is of a setting's type (lists become tuples); TypeError else."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if any(value == part and type(value) is type(part) for part in parts):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return tuple(_checked(one, part) for one, part in zip(value, inner, strict=True))
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            try:
                return _checked(value, part)
            except (TypeError, ValueError):
                continue
    elif kind is float and type(value) is int:
        return float(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    raise TypeError(f"{value!r:.80} is not of type {kind}")


def read_settings(kind: type[_Settings], content: Any, where: str) -> _Settings:
    """Settings out of a checkpoint's plain data; those that an earlier version did not have are at their defaults.

    Args:
        where: the checkpoint and the part, for the message of the CheckpointError.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: found {content!r:.80}, expected the settings of a run by name")
    kinds = typing.get_type_hints(kind)
    unknown = sorted(map(str, set(content) - set(kinds)))
    if unknown:
        raise CheckpointError(f"{where}: holds {', '.join(unknown)}, which this version does not know; update slip")
    values = {}
    for name, value in content.items():
        try:
            values[name] = _checked(value, kinds[name])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}.{name}: {error}; is this a checkpoint of slip train?") from error
    return kind(**values)


def _load_weights(model: Model, state: checkpoint.State, weights: Weights, url: str) -> None:
    """Fill the network; CheckpointError when names or shapes are others."""
    try:
        model.load_state_dict(state.model)
        if weights == "average" and state.ema is not None:
            trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            if set(state.ema) != trained:
                differ = sorted(set(state.ema) ^ trained)
                raise CheckpointError(f"{url}: the average and the model differ in {', '.join(differ[:5])}")
            model.load_state_dict(state.ema, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{url}: its weights do not fit the settings it holds: {reason:.300}") from error


def _check_finite(model: Model, url: str) -> None:
    """CheckpointError naming a weight that is no number: every answer would be the same, and look like one."""
    for name, value in model.state_dict().items():
        spoilt = int((~value.isfinite()).sum())
        if spoilt:
            raise CheckpointError(
                f"{url}: {spoilt} of the {value.numel()} numbers of {name} are not finite: its training diverged, or "
                "the file is damaged; evaluate another checkpoint"
            )


def _load_released(url: str, weights: Weights | None) -> Trained:
    """The network of a checkpoint of the published code."""
    if weights == "average":
        raise ConfigError(f"--weights average: {url} holds none (a released checkpoint); leave out --weights")
    found = read_released(url)
    model = build_model(found.model, found.objective)
    try:
        model.load_state_dict(found.tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{url}: its tensors are not those of a published {found.objective.name} {found.model.tower}: {reason:.300}"
        ) from error
    _check_finite(model, url)
    return Trained(
        model=model.eval(),
        config=found.model,
        objective=found.objective,
        weights="model",
        has_average=False,
        precision="auto",
        step=found.step,
        versions={},
        data_sha256=None,
        epochs=found.epochs,
    )


def load(url: str, weights: Weights | None) -> Trained:
    """Read a checkpoint, one of the published code too, and build its network.

    Args:
        weights: None takes the average where the run kept one, as training's own evaluation does.
    """
    if is_released(url):
        return _load_released(url, weights)
    state = checkpoint.load(url)
    if weights == "average" and state.ema is None:
        raise ConfigError(f"--weights average: {url} holds none (the run had --ema-decay 0); leave out --weights")
    chosen: Weights = weights or ("model" if state.ema is None else "average")
    config = read_settings(ModelConfig, state.config.get("model"), f"{url}: config.model")
    objective = read_settings(ObjectiveConfig, state.config.get("objective"), f"{url}: config.objective")
    precision = state.config.get("precision")
    allowed = typing.get_args(typing.get_type_hints(TrainConfig)["precision"])
    if not isinstance(precision, str) or precision not in allowed:
        raise CheckpointError(f"{url}: config.precision: found {precision!r:.80}, expected {', '.join(allowed)}")
    # Of no use without a gradient.
    model = build_model(dataclasses.replace(config, activation_checkpointing=False), objective)
    _load_weights(model, state, chosen, url)
    _check_finite(model, url)
    return Trained(
        model=model.eval(),
        config=config,
        objective=objective,
        weights=chosen,
        has_average=state.ema is not None,
        precision=precision,
        step=state.step,
        versions=state.versions,
        data_sha256=state.data_sha256,
    )
