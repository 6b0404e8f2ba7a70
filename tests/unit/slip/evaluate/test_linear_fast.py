"""Against scikit-learn, whose objective is minimised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from pipeline.errors import InputError
from slip.evaluate.encode import Encoded
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.linear_fast import best_exponent, fit, held_out_numbers, search_l2
from tests.coloured_pictures import ALONE


def encoded(values_NW: torch.Tensor, labels_N: torch.Tensor) -> Encoded:
    return Encoded(values_NW=values_NW, labels_N=labels_N, numbers_N=torch.arange(len(labels_N)))


def scores(classifier: LogisticRegression, rows: Encoded) -> npt.NDArray[np.float64]:
    """Logits of scikit-learn's classifier."""
    found: npt.NDArray[np.float64] = classifier.decision_function(rows.values_NW.double().numpy())
    return found


def clouds(count: int, num_classes: int, *, seed: int, spread: float = 1.0) -> Encoded:
    """Points around a centre for each class, which overlap."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, 12))
    labels = draw.integers(0, num_classes, count)
    points = centres[labels] + spread * draw.normal(size=(count, 12))
    return encoded(torch.from_numpy(points).float(), torch.from_numpy(labels))


@pytest.mark.parametrize("num_classes", [3, 7])
@pytest.mark.parametrize("l2", [0.1, 3.16, 100.0])
def test_the_minimum_is_scikit_learns(num_classes: int, l2: float) -> None:
    rows, others = clouds(400, num_classes, seed=1), clouds(300, num_classes, seed=2)
    found = fit(rows, num_classes, l2, world=ALONE)
    theirs = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=5000).fit(
        rows.values_NW.double().numpy(), rows.labels_N.numpy()
    )
    np.testing.assert_allclose(found.weight_CW.numpy(), theirs.coef_, atol=1e-3)
    # Biases are not penalised, so all of them may be shifted.
    centred = found.bias_C - found.bias_C.mean()
    np.testing.assert_allclose(centred.numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)
    predicted = found.logits(others.values_NW).argmax(dim=1).numpy()
    np.testing.assert_array_equal(predicted, theirs.predict(others.values_NW.double().numpy()))


def test_two_classes_are_scikit_learns_with_one_weight_for_both() -> None:
    rows, others = clouds(300, 2, seed=3), clouds(300, 2, seed=4)
    found = fit(rows, 2, 0.5, world=ALONE)
    # Two opposite vectors of half the length cost half as much as one: scikit-learn's binary form with half of C.
    theirs = LogisticRegression(C=4.0, tol=1e-9, max_iter=5000).fit(
        rows.values_NW.double().numpy(), rows.labels_N.numpy()
    )
    np.testing.assert_allclose((found.weight_CW[1] - found.weight_CW[0]).numpy(), theirs.coef_[0], atol=1e-3)
    predicted = found.logits(others.values_NW).argmax(dim=1).numpy()
    np.testing.assert_array_equal(predicted, theirs.predict(others.values_NW.double().numpy()))


def test_the_minimum_is_the_same_from_everywhere() -> None:
    rows = clouds(300, 4, seed=5)
    far = fit(rows, 4, 1e4, world=ALONE)
    first, second = fit(rows, 4, 0.3, world=ALONE), fit(rows, 4, 0.3, world=ALONE, start=far)
    assert torch.allclose(first.weight_CW, second.weight_CW, atol=1e-3)
    assert not torch.allclose(first.weight_CW, far.weight_CW, atol=0.1)


def unlike(count: int) -> Encoded:
    """Points of 4 classes whose coordinates are of very different size, all shifted and some alike, as features are."""
    rows = clouds(count, 4, seed=8)
    mix = torch.from_numpy(np.random.default_rng(9).normal(size=(12, 12))).float()
    return replace(rows, values_NW=rows.values_NW @ (mix * torch.logspace(-3, 2, 12)) + 5)


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_the_minimum_is_found_where_features_are_of_very_different_size(l2: float) -> None:
    rows = unlike(400)
    # Newton's method does not mind.
    theirs = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=500, solver="newton-cholesky").fit(
        rows.values_NW.double().numpy(), rows.labels_N.numpy()
    )
    found = fit(rows, 4, l2, world=ALONE, max_iterations=200).logits(rows.values_NW)
    # Less what may be added to all classes.
    ours, others = (logits - logits.mean(axis=1, keepdims=True) for logits in (found.numpy(), scores(theirs, rows)))
    np.testing.assert_allclose(ours, others, atol=1e-3)


def test_the_order_of_pictures_changes_no_answer() -> None:
    rows = unlike(300)
    mixed = torch.from_numpy(np.random.default_rng(10).permutation(300))
    other = encoded(rows.values_NW[mixed], rows.labels_N[mixed])
    first, second = (fit(some, 4, 0.01, world=ALONE).logits(rows.values_NW) for some in (rows, other))
    assert torch.allclose(first, second, atol=1e-4)


def test_dead_features_weigh_nothing() -> None:
    rows = clouds(200, 3, seed=11)
    dead = replace(rows, values_NW=F.pad(rows.values_NW, (0, 3)))
    found, alone = fit(dead, 3, 0.1, world=ALONE), fit(rows, 3, 0.1, world=ALONE)
    assert torch.allclose(found.weight_CW, F.pad(alone.weight_CW, (0, 3)), atol=1e-5)


@pytest.mark.parametrize("peak", [-6.0, -3.3, 0.0, 1.1, 5.9])
def test_the_search_finds_the_best_eighth_of_a_decade(peak: float) -> None:
    asked: list[float] = []

    def worth(exponent: float) -> tuple[float]:
        asked.append(exponent)
        return (-abs(exponent - peak),)

    found = best_exponent(worth, [6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0], 4)
    eighths = [n / 8 for n in range(-48, 49)]
    assert found == min(eighths, key=lambda one: abs(one - peak))
    assert len(asked) == len(set(asked)) <= 15


def test_of_equally_good_penalties_the_strongest_wins() -> None:
    assert best_exponent(lambda exponent: (1.0 if exponent > -3 else 0.0,), [2.0, 0.0, -2.0], 1) == 2.0
    assert best_exponent(lambda exponent: (0.0,), [1.0], 4) == 1.0


def test_the_same_share_of_each_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    fitted, held = held_out_numbers(labels, 0.1, seed=7)
    assert sorted([*fitted, *held]) == list(range(113))
    # Of two one is held out, a single one is needed to fit on.
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 1, 1, 0]
    others = held_out_numbers(labels, 0.1, seed=8)[1]
    assert set(others) != set(held)


def test_the_penalty_chosen_is_the_best_on_the_held_out_rows() -> None:
    rows, held = clouds(60, 3, seed=6, spread=2.5), clouds(500, 3, seed=7, spread=2.5)

    def worth(logits_NC: torch.Tensor, rows: Encoded) -> float:
        return float((logits_NC.argmax(dim=1) == rows.labels_N).double().mean())

    config = LinearConfig(l2_decades=(-2, 4), l2_halvings=1)
    l2, classifier = search_l2(rows, held, 3, config, worth, world=ALONE)
    chosen = worth(classifier.logits(held.values_NW), held)
    for exponent in (-2, 0, 2, 4):
        theirs = LogisticRegression(C=10.0**-exponent, tol=1e-8, max_iter=5000)
        theirs.fit(rows.values_NW.double().numpy(), rows.labels_N.numpy())
        assert chosen >= theirs.score(held.values_NW.double().numpy(), held.labels_N.numpy())
    assert 1e-2 <= l2 <= 1e4


def test_too_few_pictures_are_refused() -> None:
    one_each = encoded(torch.zeros(3, 2), torch.arange(3))
    kept, held = map(torch.from_numpy, held_out_numbers(one_each.labels_N.numpy(), 0.1, seed=1))
    with pytest.raises(InputError, match="every class needs two pictures"):
        search_l2(one_each.only(kept), one_each.only(held), 3, LinearConfig(), lambda *_: 0.0, world=ALONE)
