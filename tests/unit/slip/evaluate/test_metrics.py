"""Each metric against a count made one picture (or pair) at a time, and scikit-learn; intervals against simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score, top_k_accuracy_score

from slip.evaluate import metrics
from slip.evaluate.metrics import wilson


def rejects(share: float, right: int, total: int) -> bool:
    """Whether the two-sided score test at 95 % rejects a share: |found - share| > z * its standard error under it."""
    return abs(right / total - share) > 1.959963984540054 * math.sqrt(share * (1 - share) / total)


def slow_interval(right: int, total: int) -> tuple[float, float]:
    """Where the score test begins to reject, by bisection on both sides of what was found."""
    ends = []
    for outer in (0.0, 1.0):
        kept = right / total
        for _ in range(200):
            middle = (kept + outer) / 2
            kept, outer = (kept, middle) if rejects(middle, right, total) else (middle, outer)
        ends.append(kept)
    return ends[0], ends[1]


@given(st.integers(1, 50_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_what_the_score_test_does_not_reject(counts: tuple[int, int]) -> None:
    assert wilson(*counts) == pytest.approx(slow_interval(*counts), abs=1e-9)


def test_the_interval_published_for_none_of_ten() -> None:
    # Brown, Cai, DasGupta, Statistical Science 16 (2001): [0, 0.278] for 0 of 10.
    low, high = wilson(0, 10)
    assert (low, round(high, 3)) == (0.0, 0.278)
    low, high = 1 - high, 1.0
    assert wilson(10, 10) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("counts", [(1, 0), (-1, 5), (6, 5)])
def test_what_is_no_share_has_no_interval(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is no share"):
        wilson(*counts)


def answered(classes: int, count: int, seed: int) -> tuple[metrics.Labels, npt.NDArray[np.float64]]:
    """True classes, and logits that know something of them."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    logits = draw.normal(size=(count, classes))
    logits[np.arange(count), labels] += 1.5
    return labels, logits


@pytest.mark.parametrize(("classes", "count"), [(2, 1), (3, 50), (12, 400)])
def test_counts_are_those_made_by_hand(classes: int, count: int) -> None:
    labels, logits = answered(classes, count, 3)
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    for first in (1, 5):
        by_hand = sum(label in row[:first] for label, row in zip(labels.tolist(), ranked.tolist(), strict=True))
        assert metrics.hits(labels, ranked, first) == by_hand
    if classes > 5:
        found = top_k_accuracy_score(labels, logits, k=5, normalize=False, labels=range(classes))
        assert metrics.hits(labels, ranked, 5) == found
    matrix = metrics.confusion(labels, ranked[:, 0], classes)
    assert matrix.tolist() == confusion_matrix(labels, ranked[:, 0], labels=range(classes)).tolist()
    value, _ = metrics.mean_per_class(matrix)
    # A class's accuracy is its recall; scikit-learn counts those that occur.
    occurring = sorted(set(labels.tolist()))
    assert value == pytest.approx(recall_score(labels, ranked[:, 0], labels=occurring, average="macro"))


@pytest.mark.parametrize("steps", [2, 7, 10_000])
@pytest.mark.parametrize("counts", [(1, 1), (1, 9), (25, 40)])
def test_roc_auc_is_the_share_of_pairs_in_order(steps: int, counts: tuple[int, int]) -> None:
    draw = np.random.default_rng(steps)
    labels = np.repeat([1, 0], counts)
    margin = draw.integers(0, steps, sum(counts)) / steps + 0.2 * labels
    margin = np.round(margin * 5) / 5 if steps < 10 else margin  # many ties
    pairs = list(itertools.product(margin[labels == 1].tolist(), margin[labels == 0].tolist()))
    value, interval = metrics.roc_auc(labels, margin)
    assert value == pytest.approx(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))
    assert value == pytest.approx(roc_auc_score(labels, margin))
    assert (interval is None) == (min(counts) < 2)


def test_delong_variance_is_that_of_all_pairs() -> None:
    """Against the double sum over pairs in DeLong's paper, with ties."""
    draw = np.random.default_rng(1)
    labels = np.repeat([1, 0], (12, 17))
    margin = np.round(draw.normal(size=29) + labels, 1)
    positive, negative = margin[labels == 1], margin[labels == 0]
    won = [[(a > b) + 0.5 * (a == b) for b in negative] for a in positive]
    value = sum(map(sum, won)) / (12 * 17)
    of_positive = [sum(row) / 17 for row in won]
    of_negative = [sum(column) / 12 for column in zip(*won, strict=True)]
    variance = sum((v - value) ** 2 for v in of_positive) / 11 / 12
    variance += sum((v - value) ** 2 for v in of_negative) / 16 / 17
    half = 1.959963984540054 * math.sqrt(variance)
    assert metrics.roc_auc(labels, margin)[1] == pytest.approx((value - half, min(value + half, 1.0)))


def test_a_mean_of_top1_and_top5() -> None:
    value, (low, high) = metrics.mean_of_top1_and_top5(30, 70, 100)
    assert value == pytest.approx(0.5)
    assert 0 < low < value < high < 1
    assert metrics.mean_of_top1_and_top5(5, 5, 5)[1][0] < 1
    with pytest.raises(ValueError, match="no shares"):
        metrics.mean_of_top1_and_top5(3, 2, 5)


def covered(truth: float, measure: Callable[[np.random.Generator], tuple[float, float]]) -> float:
    """Share of 600 samples whose interval holds the truth."""
    draw = np.random.default_rng(0)
    intervals = [measure(draw) for _ in range(600)]
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    shares = np.array([0.2, 0.5, 0.95, 0.99])
    sizes = np.array([50, 20, 200, 80])

    def per_class(draw: np.random.Generator) -> tuple[float, float]:
        right = draw.binomial(sizes, shares)
        matrix = np.diag(right)
        matrix[[0, 1, 2, 3], [1, 2, 3, 0]] += sizes - right
        return metrics.mean_per_class(matrix)[1]

    def both(draw: np.random.Generator) -> tuple[float, float]:
        one, half, _ = draw.multinomial(150, [0.4, 0.3, 0.3])
        return metrics.mean_of_top1_and_top5(int(one), int(one + half), 150)[1]

    def auc(draw: np.random.Generator) -> tuple[float, float]:
        labels = np.repeat([1, 0], (60, 90))
        interval = metrics.roc_auc(labels, draw.normal(size=150) + labels)[1]
        assert interval is not None
        return interval

    # Of two normal distributions one apart: Phi(1 / sqrt(2)).
    for truth, measure in ((float(shares.mean()), per_class), (0.55, both), (0.7602499389, auc)):
        assert 0.93 <= covered(truth, measure) <= 0.98


def test_a_class_without_pictures_does_not_count() -> None:
    assert metrics.mean_per_class(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]]))[0] == pytest.approx((0.75 + 1) / 2)
    with pytest.raises(ValueError, match="no picture"):
        metrics.mean_per_class(np.zeros((2, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="no pair"):
        metrics.roc_auc(np.array([1, 1]), np.array([0.1, 0.2]))
