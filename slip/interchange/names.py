"""Parameter names here, in released checkpoints, in timm and in open_clip.

In: tensors by name in one convention. Out: the same tensors in another. Ours are the published names, so a released
file only loses the prefix that DistributedDataParallel adds. Reading and writing files is left to others.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

VISUAL = "visual."
_PARALLEL = "module."
_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
_LOGITS = ("logit_scale", "logit_bias")


def without_parallel(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the bare network has them: {"module.visual.cls_token": ...} -> {"visual.cls_token": ...}."""
    if not all(name.startswith(_PARALLEL) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}


def for_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower alone, by timm's names: {"visual.cls_token": ..., ...} -> {"cls_token": ...}."""
    return {name.removeprefix(VISUAL): tensor for name, tensor in tensors.items() if name.startswith(VISUAL)}


def for_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both towers by the names of open_clip's CLIP with timm's image tower (open_clip.timm_model.TimmModel).

    Text tower and logits have the same names. The projection of pictures is a linear layer there, whose weight is
    (out, in).
    """
    renamed = {f"visual.trunk.{name}": tensor for name, tensor in for_timm(tensors).items()}
    renamed["visual.head.proj.weight"] = tensors["image_projection"].T
    same = {name: tensor for name, tensor in tensors.items() if name.startswith(_TEXT) or name in _LOGITS}
    return renamed | same


def left_out(tensors: Mapping[str, Tensor], *, text: bool) -> list[str]:
    """What neither a tower nor its projection needs, by the first part of its names: ["image_mlp"].

    Args:
        text: whether the text tower is taken along.
    """
    taken: tuple[str, ...] = (VISUAL, *_TEXT, *_LOGITS, "image_projection") if text else (VISUAL,)
    return sorted({name.partition(".")[0] for name in tensors if not name.startswith(taken)})
