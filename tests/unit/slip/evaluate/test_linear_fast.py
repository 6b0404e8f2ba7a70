"""Against scikit-learn, whose objective is minimised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.errors import InputError
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.linear_fast import Rows, best_exponent, fit, held_out_numbers, search_l2
from tests.coloured_pictures import ALONE


def clouds(count: int, num_classes: int, *, seed: int, spread: float = 1.0) -> Rows:
    """Points around a centre for each class, which overlap."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, 12))
    labels = draw.integers(0, num_classes, count)
    points = centres[labels] + spread * draw.normal(size=(count, 12))
    return Rows(features_NW=torch.from_numpy(points).float(), labels_N=torch.from_numpy(labels))


@pytest.mark.parametrize("num_classes", [3, 7])
@pytest.mark.parametrize("l2", [0.1, 3.16, 100.0])
def test_the_minimum_is_scikit_learns(num_classes: int, l2: float) -> None:
    rows, others = clouds(400, num_classes, seed=1), clouds(300, num_classes, seed=2)
    found = fit(rows, num_classes, l2, world=ALONE)
    theirs = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=5000).fit(
        rows.features_NW.double().numpy(), rows.labels_N.numpy()
    )
    np.testing.assert_allclose(found.weight_CW.numpy(), theirs.coef_, atol=1e-3)
    # Biases are not penalised, so all of them may be shifted.
    centred = found.bias_C - found.bias_C.mean()
    np.testing.assert_allclose(centred.numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)
    predicted = found.logits(others.features_NW).argmax(dim=1).numpy()
    np.testing.assert_array_equal(predicted, theirs.predict(others.features_NW.double().numpy()))


def test_two_classes_are_scikit_learns_with_one_weight_for_both() -> None:
    rows, others = clouds(300, 2, seed=3), clouds(300, 2, seed=4)
    found = fit(rows, 2, 0.5, world=ALONE)
    # Two opposite vectors of half the length cost half as much as one: scikit-learn's binary form with half of C.
    theirs = LogisticRegression(C=4.0, tol=1e-9, max_iter=5000).fit(
        rows.features_NW.double().numpy(), rows.labels_N.numpy()
    )
    np.testing.assert_allclose((found.weight_CW[1] - found.weight_CW[0]).numpy(), theirs.coef_[0], atol=1e-3)
    predicted = found.logits(others.features_NW).argmax(dim=1).numpy()
    np.testing.assert_array_equal(predicted, theirs.predict(others.features_NW.double().numpy()))


def test_the_minimum_is_the_same_from_everywhere() -> None:
    rows = clouds(300, 4, seed=5)
    far = fit(rows, 4, 1e4, world=ALONE)
    first, second = fit(rows, 4, 0.3, world=ALONE), fit(rows, 4, 0.3, world=ALONE, start=far)
    assert torch.allclose(first.weight_CW, second.weight_CW, atol=1e-3)
    assert not torch.allclose(first.weight_CW, far.weight_CW, atol=0.1)


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

    def worth(logits_NC: torch.Tensor, labels_N: torch.Tensor) -> float:
        return float((logits_NC.argmax(dim=1) == labels_N).double().mean())

    config = LinearConfig(l2_decades=(-2, 4), l2_halvings=1)
    l2, classifier = search_l2(rows, held, 3, config, worth, world=ALONE)
    chosen = worth(classifier.logits(held.features_NW), held.labels_N)
    for exponent in (-2, 0, 2, 4):
        theirs = LogisticRegression(C=10.0**-exponent, tol=1e-8, max_iter=5000)
        theirs.fit(rows.features_NW.double().numpy(), rows.labels_N.numpy())
        assert chosen >= theirs.score(held.features_NW.double().numpy(), held.labels_N.numpy())
    assert 1e-2 <= l2 <= 1e4


def test_too_few_pictures_are_refused() -> None:
    one_each = Rows(features_NW=torch.zeros(3, 2), labels_N=torch.arange(3))
    kept, held = held_out_numbers(one_each.labels_N.numpy(), 0.1, seed=1)
    with pytest.raises(InputError, match="every class needs two pictures"):
        search_l2(one_each.only(kept), one_each.only(held), 3, LinearConfig(), lambda *_: 0.0, world=ALONE)
