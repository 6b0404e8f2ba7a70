from __future__ import annotations

import math

import pytest
import torch

from slip.evaluate.knn import knn_classes


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
