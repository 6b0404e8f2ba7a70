from __future__ import annotations

import copy

import torch
from torch import nn

from slip.models.heads import GlobalBatchNorm1d, SSLHead


def test_batch_norm_alone_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm1d(5).double(), nn.BatchNorm1d(5).double()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for _ in range(3):
        x = torch.randn(7, 5, dtype=torch.float64) * 3 + 10
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_head_has_the_published_layers() -> None:
    head = SSLHead(6, 8, 4)
    plain = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), head.state_dict().values(), strict=True)))
    x = torch.randn(10, 6)
    torch.testing.assert_close(head(x), plain(x))
    assert [name for name, _ in head.named_parameters()] == [
        f"{layer}.{kind}" for layer in ("layer1", "bn1", "layer2", "bn2", "layer3") for kind in ("weight", "bias")
    ]
