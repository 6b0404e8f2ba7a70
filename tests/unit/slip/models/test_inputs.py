from __future__ import annotations

import torch

from slip.models.inputs import Features, Targets, TowerInputs, joined, rows_of


def inputs() -> TowerInputs:
    numbers = torch.arange(5.0)
    return TowerInputs(
        views=(numbers.view(5, 1, 1, 1).expand(5, 3, 2, 2), 10 + numbers.view(5, 1, 1, 1).expand(5, 3, 2, 2)),
        tokens=torch.arange(10).view(5, 2),
        keep=(torch.arange(5).view(5, 1),),
    )


def test_parts_of_any_size_join_to_the_whole() -> None:
    whole = inputs()
    assert len(whole) == 5
    for size in (1, 2, 3, 5):
        parts = [rows_of(whole, slice(first, first + size)) for first in range(0, 5, size)]
        assert [len(part) for part in parts] == [min(size, 5 - first) for first in range(0, 5, size)]
        again = joined(parts)
        assert all(torch.equal(a, b) for a, b in zip(again.views, whole.views, strict=True))
        assert again.tokens is not None
        assert whole.tokens is not None
        assert torch.equal(again.tokens, whole.tokens)
        assert torch.equal(again.keep[0], whole.keep[0])
        assert again.hidden is None


def test_what_is_not_there_stays_away() -> None:
    found = joined([Targets(), Targets()])
    assert found.momentum == ()
    assert found.patches is None
    assert rows_of(Targets(), slice(0, 1)) == Targets()


def test_features_are_listed_in_order() -> None:
    first, second, text, hidden = (torch.full((2, 3), float(n)) for n in range(4))
    found = Features(views=(first, second), text=text, hidden=hidden).tensors()
    assert [int(x[0, 0]) for x in found] == [0, 1, 2, 3]
    assert Features(views=(), text=None, hidden=None).tensors() == []
