"""Checkpoints of the published code (github.com/facebookresearch/SLIP), read without running code that they hold.

In: a file or URL as `torch.save` wrote it in the published main.py: {"epoch", "state_dict", "optimizer", "scaler",
"best_acc1", "args"}. Out: settings and weights under our names. Towers, sizes and objective are found from the shapes
of the tensors and must agree with the kind that `args` names. Building the network is left to
`slip.evaluate.trained`.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline import store
from pipeline.errors import CheckpointError, StoreError
from slip.config import ModelConfig, ObjectiveConfig, ObjectiveName, TowerName
from slip.interchange.names import without_parallel
from slip.models.shapes import IMAGE_SHAPES

logger = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 16
_BLOCKED = re.compile(r"GLOBAL ([\w.]+)")
_OBJECTIVES: dict[tuple[bool, bool], ObjectiveName] = {
    (True, False): "clip",
    (False, True): "simclr",
    (True, True): "slip",
}
_KINDS = {
    f"{objective}_{tower}".upper(): (objective, tower)
    for objective in _OBJECTIVES.values()
    for tower in ("vits16", "vitb16", "vitl16")
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Released:
    """What a released checkpoint says of a network."""

    model: ModelConfig
    objective: ObjectiveConfig
    tensors: dict[str, Tensor]
    """By our names; of a local file they are read when they are used."""
    step: int
    """Optimizer steps done, 0 where the file does not say."""
    epochs: int | None
    """Passes over the data set done, None where the file does not say."""


class _NumPyNumber:
    """Stands for a NumPy scalar and its dtype, so that no code of NumPy is called while a file is read.

    The published schedule sets the optimizer's learning rate to one; nothing that is used here holds any.
    """

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_ALLOWED: list[Any] = [
    argparse.Namespace,
    (_NumPyNumber, "numpy.dtype"),
    (_NumPyNumber, "numpy.core.multiarray.scalar"),
    (_NumPyNumber, "numpy._core.multiarray.scalar"),
]


def is_released(url: str) -> bool:
    """Whether a file looks like one of the published code: near its beginning it names a state_dict."""
    size = store.size(url)
    return bool(size) and b"state_dict" in store.read_range(url, 0, min(size or 0, _HEAD_BYTES))


def _unpickled(url: str) -> Any:
    local = store.is_local(url)
    source: Any = store.filesystem(url)[1] if local else io.BytesIO(store.read_bytes(url))
    # Of a local file only the tensors that are used are read: two thirds are the optimizer's.
    mapped = local and zipfile.is_zipfile(source)
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    # torch.load has a class of error for each way in which bytes can be wrong.
    except Exception as error:
        # A file that was cut gives EINVAL. Other numbers are the disk's or the network's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise StoreError(f"{url}: cannot read: {error}; if it may pass, run the same command again") from error
        blocked = _BLOCKED.search(str(error))
        if blocked:
            raise CheckpointError(
                f"{url}: holds {blocked[1]}, which could run code when it is read; expected tensors, plain values and "
                "argparse.Namespace. Save the weights alone where you trust the file: "
                'torch.save({"state_dict": ...}, ...)'
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{url}: not a readable checkpoint ({store.size(url)} bytes: {reason}); download it again"
        ) from error


def _shape(tensors: Mapping[str, Tensor], name: str, num_dims: int, url: str) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != num_dims:
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        raise CheckpointError(
            f"{url}: parameter {name} is {found}, expected {num_dims} dimensions; is it a SLIP checkpoint with a "
            "vision transformer?"
        )
    return tuple(tensors[name].shape)


def _tower_of(tensors: Mapping[str, Tensor], url: str) -> tuple[TowerName, int]:
    """The image tower and the side of its pictures."""
    width, _, patch, _ = _shape(tensors, "visual.patch_embed.proj.weight", 4, url)
    num_positions = _shape(tensors, "visual.pos_embed", 3, url)[1]
    blocks = {name.split(".")[2] for name in tensors if name.startswith("visual.blocks.")}
    grid = math.isqrt(num_positions - 1)
    for tower, shape in IMAGE_SHAPES.items():
        if (shape.width, shape.depth, shape.patch) == (width, len(blocks), patch) and grid**2 == num_positions - 1:
            return tower, grid * patch
    known = ", ".join(f"{name} ({s.width} wide, {s.depth} blocks, patch {s.patch})" for name, s in IMAGE_SHAPES.items())
    raise CheckpointError(
        f"{url}: its image tower is {width} wide, with {len(blocks)} blocks, patch {patch}, {num_positions} positions; "
        f"known are {known}, with one position for each patch of a square and one for the class token"
    )


def settings_of(
    tensors: Mapping[str, Tensor], args: Mapping[str, object], url: str
) -> tuple[ModelConfig, ObjectiveConfig]:
    """Settings under which a network has tensors of these names and shapes; CheckpointError where there are none.

    Args:
        tensors: by our names.
        args: the arguments of the published command line, {} where the file has none.
    """
    tower, image_size = _tower_of(tensors, url)
    has_text, has_head = "text_projection" in tensors, "image_mlp.layer1.weight" in tensors
    if not (has_text or has_head):
        raise CheckpointError(f"{url}: holds neither text_projection nor image_mlp: neither CLIP, SimCLR nor SLIP")
    name = _OBJECTIVES[has_text, has_head]
    named = _KINDS.get(str(args.get("model")))
    if named is not None and named != (name, tower):
        raise CheckpointError(f"{url}: says it is a {args['model']}, but its tensors are those of {name} {tower}")
    sizes: dict[str, Any] = {}
    if has_text:
        sizes["context_length"] = _shape(tensors, "positional_embedding", 2, url)[0]
        sizes["embed_dim"] = _shape(tensors, "image_projection", 2, url)[1]
    if has_head:
        sizes["ssl_hidden"] = _shape(tensors, "image_mlp.layer1.weight", 2, url)[0]
        sizes["ssl_dim"] = _shape(tensors, "image_mlp.layer3.weight", 2, url)[0]
    said = {"ssl_scale": args.get("ssl_scale"), "ssl_temperature": args.get("ssl_temp")}
    losses: dict[str, Any] = {key: value for key, value in said.items() if isinstance(value, float)}
    # The published code gathers embeddings without their gradient.
    objective = ObjectiveConfig(name=name, gather="paper", **losses)
    return ModelConfig(tower=tower, image_size=image_size, **sizes), objective


def _steps(optimizer: object) -> int:
    """Optimizer steps by AdamW's own count, 0 where there is none."""
    states = optimizer.get("state") if isinstance(optimizer, dict) else None
    first = next(iter(states.values()), None) if isinstance(states, dict) else None
    count = first.get("step") if isinstance(first, dict) else None
    return int(count) if isinstance(count, int | Tensor) else 0


def read_released(url: str) -> Released:
    """Read a released checkpoint; CheckpointError when it is none."""
    content = _unpickled(url)
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{url}: expected tensors by name under state_dict, found {type(tensors).__name__}")
    args = content.get("args")
    arguments = vars(args) if isinstance(args, argparse.Namespace) else {}
    ours = without_parallel(tensors)
    model, objective = settings_of(ours, arguments, url)
    epochs = content["epoch"] if isinstance(content.get("epoch"), int) else None
    ignored = [name for name in ("optimizer", "scaler") if name in content]
    logger.info(
        "%s: a released checkpoint, %s %s%s%s",
        url,
        objective.name,
        model.tower,
        "" if epochs is None else f" after {epochs} epochs",
        f"; {' and '.join(ignored)} not used" if ignored else "",
    )
    step = _steps(content.get("optimizer"))
    return Released(model=model, objective=objective, tensors=ours, step=step, epochs=epochs)
