from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from slip.models.heads import GlobalBatchNorm1d, MLPHead, byol_heads, mocov3_heads, simclr_head

WIDTH, HIDDEN, DIM = 6, 8, 4


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_alone_is_torchs(affine: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm1d(5, affine=affine).double(), nn.BatchNorm1d(5, affine=affine).double()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for _ in range(3):
        x = torch.randn(7, 5, dtype=torch.float64) * 3 + 10
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-12)


def linear(inside: int, outside: int, *, bias: bool) -> nn.Linear:
    return nn.Linear(inside, outside, bias=bias)


HEADS: dict[str, tuple[MLPHead, list[nn.Module]]] = {
    "simclr": (
        simclr_head(WIDTH, HIDDEN, DIM),
        [
            *(linear(WIDTH, HIDDEN, bias=True), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            *(linear(HIDDEN, HIDDEN, bias=True), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            linear(HIDDEN, DIM, bias=True),
        ],
    ),
    "mocov3 projector": (
        mocov3_heads(WIDTH, HIDDEN, DIM)[0],
        [
            *(linear(WIDTH, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            *(linear(HIDDEN, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            *(linear(HIDDEN, DIM, bias=False), nn.BatchNorm1d(DIM, affine=False)),
        ],
    ),
    "mocov3 predictor": (
        mocov3_heads(WIDTH, HIDDEN, DIM)[1],
        [
            *(linear(DIM, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            *(linear(HIDDEN, DIM, bias=False), nn.BatchNorm1d(DIM, affine=False)),
        ],
    ),
    "byol projector": (
        byol_heads(WIDTH, HIDDEN, DIM)[0],
        [
            *(linear(WIDTH, HIDDEN, bias=True), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            linear(HIDDEN, DIM, bias=True),
        ],
    ),
    "byol predictor": (
        byol_heads(WIDTH, HIDDEN, DIM)[1],
        [
            *(linear(DIM, HIDDEN, bias=True), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            linear(HIDDEN, DIM, bias=True),
        ],
    ),
}


def results(head: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    found = head(x)
    weights = torch.arange(found.numel(), dtype=torch.float64).view_as(found).cos()
    return found, torch.autograd.grad((found * weights).sum(), (x, *head.parameters()))


@pytest.mark.parametrize("name", HEADS)
def test_head_is_the_published_sequence_of_torchs_layers(name: str) -> None:
    head, layers = HEADS[name]
    head, plain = copy.deepcopy(head).double(), nn.Sequential(*layers).double()
    draw = torch.Generator().manual_seed(0)
    # Scales and shifts of a batch norm start at one and zero, where a mix-up of them would not show.
    for parameter in head.parameters():
        nn.init.normal_(parameter, generator=draw)
    plain.load_state_dict(dict(zip(plain.state_dict(), head.state_dict().values(), strict=True)))
    width = head.get_parameter("layer1.weight").shape[1]
    x = torch.randn(10, width, dtype=torch.float64, generator=draw).requires_grad_()
    torch.testing.assert_close(results(head, x), results(plain, x), rtol=0, atol=1e-12)
    for (_, ours), (_, theirs) in zip(head.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


NAMES = {
    "simclr": [f"{n}.{kind}" for n in ("layer1", "bn1", "layer2", "bn2", "layer3") for kind in ("weight", "bias")],
    "mocov3 projector": [
        *("layer1.weight", "bn1.weight", "bn1.bias"),
        *("layer2.weight", "bn2.weight", "bn2.bias", "layer3.weight"),
    ],
    "mocov3 predictor": ["layer1.weight", "bn1.weight", "bn1.bias", "layer2.weight"],
    "byol projector": [f"{n}.{kind}" for n in ("layer1", "bn1", "layer2") for kind in ("weight", "bias")],
    "byol predictor": [f"{n}.{kind}" for n in ("layer1", "bn1", "layer2") for kind in ("weight", "bias")],
}
NORMS = {
    "simclr": ["bn1", "bn2"],
    "mocov3 projector": ["bn1", "bn2", "bn3"],
    "mocov3 predictor": ["bn1", "bn2"],
    "byol projector": ["bn1"],
    "byol predictor": ["bn1"],
}


@pytest.mark.parametrize("name", HEADS)
def test_parameters_and_statistics_have_their_names(name: str) -> None:
    head, _ = HEADS[name]
    assert [n for n, _ in head.named_parameters()] == NAMES[name]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert [n for n, _ in head.named_buffers()] == [f"{norm}.{kind}" for norm in NORMS[name] for kind in statistics]
