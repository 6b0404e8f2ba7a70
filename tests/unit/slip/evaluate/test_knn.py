from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pipeline.errors import InputError
from slip.evaluate.encode import encode
from slip.evaluate.knn import knn_classes, run
from slip.evaluate.settings import KnnConfig, Reading
from slip.evaluate.zeroshot import published_view
from tests.coloured_pictures import ALONE, Listed, coloured, coloured_set, untrained


def slow_classes(query: list[list[float]], bank: list[list[float]], labels: list[int], k: int, t: float) -> list[int]:
    """One picture and one neighbour after the other."""
    found = []
    for q in query:
        similar = []
        for b, label in zip(bank, labels, strict=True):
            product = sum(x * y for x, y in zip(q, b, strict=True))
            similar.append((product / math.hypot(*q) / math.hypot(*b), label))
        votes: dict[int, float] = {}
        for similarity, label in sorted(similar, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / t)
        found.append(max(sorted(votes), key=lambda label: votes[label]))
    return found


@pytest.mark.parametrize(("k", "t"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (1000, 0.07)])
def test_classes_are_those_of_a_slow_count(k: int, t: float) -> None:
    draw = torch.Generator().manual_seed(0)
    bank, query = torch.randn(60, 8, generator=draw), torch.randn(30, 8, generator=draw)
    labels = torch.randint(4, (60,), generator=draw)
    found = knn_classes(query, bank, labels, 4, neighbours=k, temperature=t)
    assert found.tolist() == slow_classes(query.tolist(), bank.tolist(), labels.tolist(), k, t)


def test_a_picture_of_the_bank_finds_itself() -> None:
    bank = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50)
    assert knn_classes(3 * bank, bank, labels, 50, neighbours=1).tolist() == labels.tolist()


def test_the_protocol_asks_the_train_split_about_the_test_split() -> None:
    trained, labelled = untrained(), coloured_set(40, 30, noise=900)
    reading = Reading(batch=16, workers=2)
    (score,) = run(trained, labelled, KnnConfig(neighbours=7, temperature=0.5), world=ALONE, reading=reading)
    view = published_view(16)
    bank, query = (
        encode(trained, labelled.splits[name], world=ALONE, view=view, batch=9, workers=1, what="feature")
        for name in ("train", "test")
    )
    slow = slow_classes(query.values_NW.tolist(), bank.values_NW.tolist(), bank.labels_N.tolist(), 7, 0.5)
    right = sum(said == true for said, true in zip(slow, query.labels_N.tolist(), strict=True))
    assert (score.protocol, score.set, score.pictures, score.counts["top1"]) == ("knn", "colours", 30, right)
    assert 7 < right < 30
    assert score.detail == {"neighbours": 7, "temperature": 0.5, "train pictures": 40}


def test_without_both_splits_nobody_can_vote() -> None:
    labelled = dataclasses.replace(coloured_set(4, 4), splits={"test": coloured(4, seed=2)})
    with pytest.raises(InputError, match=r"memory/colours: has no train split \(there is: test\)"):
        run(untrained(), labelled, KnnConfig(), world=ALONE, reading=Reading())
    empty = dataclasses.replace(coloured_set(4, 4), splits={"train": coloured(4, seed=2), "test": Listed([])})
    with pytest.raises(InputError, match=r"memory/colours: .* has no test split"):
        run(untrained(), empty, KnnConfig(), world=ALONE, reading=Reading())
