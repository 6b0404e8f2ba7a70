"""The numbers of the paper's data sets from what a model answered, each with its 95 % interval; imports no torch.

In: true classes and answers. Out: shares and areas from 0 to 1. Pure functions on arrays.

Letters: N pictures, K classes named for each picture (the best first), C classes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Metric = Literal["accuracy", "mean per class", "ROC AUC", "mean of top-1 and top-5"]
METRICS: dict[str, Metric] = {
    "accuracy": "accuracy",
    "mean per class": "mean per class",
    "roc auc": "ROC AUC",
    "top1 top5 mean": "mean of top-1 and top-5",
}
"""As the catalogue of labelled sets calls them -> as scores do."""

Labels = npt.NDArray[np.int64]
Interval = tuple[float, float]
# 97.5 % of a normal distribution lie below: two-sided, 95 % are between.
_Z95 = 1.959963984540054


def wilson(right: int, total: int, z: float = _Z95) -> Interval:
    """Interval (0 to 1) of a share of which `right` of `total` were seen: (0, 10) -> (0.0, 0.278).

    Wilson's score interval (E. B. Wilson, JASA 22, 1927): the shares that a score test at the level of `z` (two-sided,
    95 %) does not reject. Unlike the share plus and minus its standard error it is sound near 0 and 1.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(f"{right} of {total} is no share")
    share, square = right / total, z * z / total
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    # Exact at both ends, where rounding would leave 1e-17 or go beyond.
    return (0.0 if right == 0 else centre - half, 1.0 if right == total else centre + half)


def _around(value: float, variance: float) -> Interval:
    half = _Z95 * math.sqrt(variance)
    return max(value - half, 0.0), min(value + half, 1.0)


def hits(labels_N: Labels, ranked_NK: Labels, first: int) -> int:
    """Pictures whose class is among the `first` named ones."""
    return int((ranked_NK[:, :first] == labels_N[:, None]).any(axis=1).sum())


def confusion(labels_N: Labels, predicted_N: Labels, num_classes: int) -> Labels:
    """Pictures by true class (rows) and predicted class (columns): (C, C)."""
    pairs = np.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def mean_per_class(confusion_CC: Labels) -> tuple[float, Interval]:
    """Mean over the classes of the share of their pictures that was right, and its interval.

    Classes without a picture do not count. The variance is that of independent classes, Σ p(1-p)/n / C², with p from
    Agresti and Coull (The American Statistician 52, 1998: two right and two wrong ones more), as a class of three
    pictures that are all right is no certainty.
    """
    right, total = np.diagonal(confusion_CC), confusion_CC.sum(axis=1)
    right, total = right[total > 0], total[total > 0]
    if not len(total):
        raise ValueError("no picture of any class")
    value = float((right / total).mean())
    share = (right + 2) / (total + 4)
    return value, _around(value, float((share * (1 - share) / (total + 4)).sum()) / len(total) ** 2)


def _midranks(values_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Place of each value from 1, equal ones share the mean of theirs: [3, 1, 3] -> [2.5, 1, 2.5]."""
    _, which, count = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[which], dtype=np.float64)


def roc_auc(labels_N: Labels, margin_N: npt.NDArray[np.floating]) -> tuple[float, Interval | None]:
    """Share of pairs, one picture of class 1 and one of class 0, in which the former has the larger margin.

    A tie counts one half (the statistic of Mann and Whitney; it is the area under the ROC curve). The interval is
    DeLong's (Biometrics 44, 1988), its components from mid-ranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014);
    None with one picture in a class.
    """
    margin_N = margin_N.astype(np.float64)
    positive, negative = margin_N[labels_N == 1], margin_N[labels_N == 0]
    num_positive, num_negative = len(positive), len(negative)
    if not num_positive or not num_negative:
        raise ValueError(f"{num_positive} pictures of class 1 and {num_negative} of class 0: no pair to compare")
    together = _midranks(np.concatenate([positive, negative]))
    # For each picture, the share of the other class that it is on the right side of.
    of_positive = (together[:num_positive] - _midranks(positive)) / num_negative
    of_negative = 1 - (together[num_positive:] - _midranks(negative)) / num_positive
    value = float(of_positive.mean())
    if min(num_positive, num_negative) < 2:
        return value, None
    variance = float(of_positive.var(ddof=1)) / num_positive + float(of_negative.var(ddof=1)) / num_negative
    return value, _around(value, variance)


def mean_of_top1_and_top5(top1: int, top5: int, total: int) -> tuple[float, Interval]:
    """(top-1 + top-5) / 2, as Kinetics is reported, and its interval.

    A picture is worth 1, 1/2 or nothing; the variance is that of the mean of such values, of which one of each end was
    seen more often than it was (so that it is never nought).
    """
    if not 0 <= top1 <= top5 <= total or total < 1:
        raise ValueError(f"{top1} and {top5} of {total} are no shares")
    value = (top1 + top5) / (2 * total)
    one, half, seen = top1 + 1, top5 - top1, total + 2
    mean = (one + half / 2) / seen
    return value, _around(value, ((one + half / 4) / seen - mean**2) / seen)
