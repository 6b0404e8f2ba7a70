"""From logits to a Score: what a classifier said about each picture, gathered over ranks, measured as the set wants it.

In: logits of this rank's pictures. Out: one Score, the same on all ranks. What is gathered is small: five classes and a
margin per picture.

Letters: N pictures, C classes, K = min(5, C).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import InputError
from slip.evaluate import catalogue, metrics
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.metrics import Metric
from slip.evaluate.score import Score
from slip.evaluate.together import gather_uneven

_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What was said about some pictures, on the CPU."""

    labels_N: Tensor
    """int64, true classes."""
    ranked_NK: Tensor
    """int64, the most likely classes, the likeliest first; of equally likely ones the lower number."""
    margin_N: Tensor
    """float64: with two classes, how much class 1 is ahead of class 0; else 0."""
    numbers_N: Tensor
    """int64, the pictures' numbers in the split."""


def answers(logits_NC: Tensor, labels_N: Tensor, numbers_N: Tensor) -> Answers:
    """Answers of some pictures from their logits, on any device."""
    # A stable sort: topk may order ties otherwise on another device or for another number of rows.
    ranked_NK = logits_NC.sort(dim=1, descending=True, stable=True).indices[:, :_NAMED]
    if logits_NC.shape[1] == 2:
        margin_N = (logits_NC[:, 1].double() - logits_NC[:, 0].double()).cpu()
    else:
        margin_N = torch.zeros(len(logits_NC), dtype=torch.float64)
    return Answers(labels_N=labels_N.cpu(), ranked_NK=ranked_NK.cpu(), margin_N=margin_N, numbers_N=numbers_N.cpu())


def gathered_answers(own: Answers) -> Answers:
    """Those of all ranks in the order of the pictures' numbers; every rank must call it."""
    numbers = gather_uneven(own.numbers_N)
    order = numbers.argsort()
    return Answers(
        labels_N=gather_uneven(own.labels_N)[order],
        ranked_NK=gather_uneven(own.ranked_NK)[order],
        margin_N=gather_uneven(own.margin_N)[order],
        numbers_N=numbers[order],
    )


def metric_of(labelled: LabelledSet) -> Metric:
    """How the catalogue, else the paper, measures the set; accuracy where neither has it."""
    found = metrics.METRICS[labelled.metric or catalogue.metric_of(labelled.name)]
    if found == "ROC AUC" and len(labelled.classnames) != 2:
        raise InputError(
            f"{labelled.url}: {len(labelled.classnames)} classes, but ROC AUC needs 2; check the catalogue"
        )
    return found


def score_of(
    found: Answers,
    labelled: LabelledSet,
    *,
    protocol: str,
    detail: Mapping[str, float | int | str] | None = None,
    metric: Metric | None = None,
) -> Score:
    """The set's metric over the answers of all ranks.

    Args:
        metric: instead of the set's own.
    """
    metric = metric or metric_of(labelled)
    total, num_classes = len(found.labels_N), len(labelled.classnames)
    if total == 0:
        raise InputError(f"{labelled.url}: no pictures to evaluate on")
    labels_N, ranked_NK = found.labels_N.numpy(), found.ranked_NK.numpy()
    top1, top5 = (metrics.hits(labels_N, ranked_NK, first) for first in (1, _NAMED))
    confusion = metrics.confusion(labels_N, ranked_NK[:, 0], num_classes)
    interval: metrics.Interval | None
    if metric == "accuracy":
        value, interval = top1 / total, metrics.wilson(top1, total)
    elif metric == "mean per class":
        value, interval = metrics.mean_per_class(confusion)
    elif metric == "ROC AUC":
        if len(set(labels_N.tolist())) < 2:
            raise InputError(f"{labelled.url}: all pictures are of one class; ROC AUC compares two")
        value, interval = metrics.roc_auc(labels_N, found.margin_N.numpy())
    else:
        value, interval = metrics.mean_of_top1_and_top5(top1, top5, total)
    return Score(
        set=labelled.name,
        protocol=protocol,
        metric=metric,
        value=value,
        pictures=total,
        classes=num_classes,
        interval95=interval,
        counts={"top1": top1, "top5": top5},
        confusion=tuple(map(tuple, confusion.tolist())),
        classnames=tuple(names[0] for names in labelled.classnames),
        detail=dict(detail or {}),
    )
