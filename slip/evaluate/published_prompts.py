"""Class names, prompts and metrics of the published evaluation, which lie beside this file as package data.

In: a set's name, as github.com/facebookresearch/SLIP spells it. Out: what prompts/NAME.json holds. Where they come from
is said in prompts/README.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from slip.evaluate.readers.classes import Names

Metric = Literal["accuracy", "mean per class", "roc auc", "top1 top5 mean"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_FOLDER = Path(__file__).parent / "prompts"

PAPER = (
    *("food101", "cifar10", "cifar100", "cub200", "sun397", "cars", "aircraft", "dtd", "pets", "caltech101", "flowers"),
    *("mnist", "fer2013", "stl10", "eurosat", "resisc45", "gtsrb", "kitti_distance", "country211", "patch_camelyon"),
    *("ucf101_frames", "kinetics700_frames", "clevr_counts", "hateful_memes", "rendered_sst2", "imagenet"),
)
"""The 26 sets of SLIP (2112.12750), in the order of its code."""
KNOWN = (*PAPER, "birdsnap", "voc2007")
"""All that class names and prompts were published for; of voc2007, where a picture has several classes, no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPrompts:
    """How a set was evaluated."""

    classnames: Names
    templates: tuple[str, ...]
    """With {c} where the name goes."""
    metric: Metric
    source: str


@cache
def published_prompts(name: str) -> PublishedPrompts | None:
    """What was published of a set; None for any other name."""
    if name not in KNOWN:
        return None
    content = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return PublishedPrompts(
        classnames=tuple(tuple(names) for names in content["classnames"]),
        templates=tuple(content["templates"]),
        metric=content["metric"],
        source=content["source"],
    )
