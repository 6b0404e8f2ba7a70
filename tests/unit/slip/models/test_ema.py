from __future__ import annotations

import torch
from torch import nn

from slip.models.ema import WeightAverage


def test_the_average_follows_the_weights() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = WeightAverage(model, 0.9)
    assert set(average.weights) == {"weight"}
    expected = model.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            model.weight += step
        average.update()
        expected = 0.9 * expected + 0.1 * model.weight.detach()
        torch.testing.assert_close(average.weights["weight"], expected)


def test_the_model_has_the_average_for_a_while() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight += 1
    own, averaged = model.weight.detach().clone(), average.weights["weight"].clone()
    with average.in_place():
        assert torch.equal(model.weight, averaged)
    assert torch.equal(model.weight, own)
    assert torch.equal(average.weights["weight"], averaged)
