from __future__ import annotations

import torch
from hypothesis import given
from hypothesis.strategies import integers, lists

from slip.config import ModelConfig, ObjectiveConfig
from slip.models.inputs import TowerInputs
from slip.models.registry import build_model
from slip.models.text_groups import MOST_GROUPS, mean_length, text_groups


@given(lengths=lists(integers(2, 77), min_size=1, max_size=200), least=integers(1, 70), multiple=integers(1, 20))
def test_every_caption_is_in_one_group_that_is_long_enough(lengths: list[int], least: int, multiple: int) -> None:
    lengths_B = torch.tensor(lengths)
    groups = text_groups(lengths_B, least_rows=least, multiple=multiple, context=77)
    assert sorted(torch.cat([group.rows for group in groups]).tolist()) == list(range(len(lengths)))
    for group in groups:
        longest = int(lengths_B[group.rows].max())
        assert longest <= group.length <= min(77, longest + multiple - 1)
        assert len(group.rows) >= min(least, len(lengths))
    assert len(groups) <= MOST_GROUPS
    assert mean_length(groups) <= 77


def test_grouping_by_length_changes_neither_features_nor_gradients() -> None:
    model = build_model(ModelConfig(tower="tiny", image_size=16), ObjectiveConfig(name="clip")).double()
    model.text_grouping["least_rows"] = 8
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 49_000, (40, 77), generator=draw)
    ends = torch.randint(1, 77, (40,), generator=draw)
    tokens[torch.arange(40), ends] = 49_407
    views = (torch.randn(40, 3, 16, 16, dtype=torch.float64, generator=draw),)
    weight = torch.randn(40, 128, dtype=torch.float64, generator=draw)
    found: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    for lengths, multiple in ((None, 1), (ends + 1, 1), (ends + 1, 16)):
        model.text_grouping["multiple"] = multiple
        text = model.features(TowerInputs(views=views, tokens=tokens, lengths=lengths)).text
        assert text is not None
        model.zero_grad()
        torch.autograd.backward((text * weight).sum())
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((text.detach(), grads))
    for text, grads in found[1:]:
        torch.testing.assert_close(text, found[0][0], rtol=0, atol=1e-12)
        assert grads.keys() == found[0][1].keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], rtol=1e-10, atol=1e-12, msg=name)
    model.text_grouping["multiple"] = 1
    assert model.text_length(ends + 1) < 50
    assert model.text_length(None) == 0
