from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from slip import gradients
from slip.gradients import GradientAverager, gradient_norm


class Parts(nn.Module):
    """Two layers that take part, one that does not, one that is frozen, and one of another type."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4).double()
        self.unused = nn.Linear(4, 2).double()
        self.frozen = nn.Linear(4, 4).double().requires_grad_(False)
        self.narrow = nn.Linear(4, 2)
        self.last = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(self.frozen(torch.tanh(self.first(x))).float())
        found: Tensor = self.last(narrow.double())
        return found


@pytest.fixture(params=["alone", "a group of one"])
def grouped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bool]:
    """Whether there is a process group."""
    if request.param == "alone":
        yield False
        return
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield True
    dist.destroy_process_group()


@pytest.fixture
def many_ranks(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A group of one that is treated as if it were of several, so that there are buckets; sums are its own numbers."""
    if grouped:
        monkeypatch.setattr(gradients, "world_size", lambda: 2)
    return grouped


def model_and_input() -> tuple[Parts, Tensor]:
    torch.manual_seed(0)
    return Parts(), torch.randn(5, 3, dtype=torch.float64)


def plain_gradients(model: nn.Module, *losses: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    trained = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(torch.stack(losses).sum(), trained, allow_unused=True)
    by_parameter = dict(zip(map(id, trained), found, strict=True))
    return {name: by_parameter.get(id(p)) for name, p in zip(names, parameters, strict=True)}


def test_one_process_keeps_its_gradients(grouped: bool) -> None:
    model, x = model_and_input()
    expected = plain_gradients(model, model(x).sum())
    averager = GradientAverager(model)
    for _ in range(2):
        averager.begin()
        with averager.final():
            torch.autograd.backward(model(x).sum())
        averager.finish()
        for name, parameter in model.named_parameters():
            wanted = expected[name]
            assert (parameter.grad is None) == (wanted is None), name
            if wanted is not None:
                torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bucket_bytes", [1, 40, 100, 10**6])
def test_buckets_of_any_size_hold_all_gradients(
    monkeypatch: pytest.MonkeyPatch, many_ranks: bool, bucket_bytes: int
) -> None:
    monkeypatch.setattr(gradients, "BUCKET_BYTES", bucket_bytes)
    model, x = model_and_input()
    expected = plain_gradients(model, model(x).sum(), model(2 * x).sum())
    averager = GradientAverager(model)
    for _ in range(2):
        averager.begin()
        torch.autograd.backward(model(x).sum())  # not final: only added up
        with averager.final():
            torch.autograd.backward(model(2 * x).sum())
        averager.finish()
        for name, parameter in model.named_parameters():
            wanted = expected[name]
            if name.startswith("frozen"):
                assert parameter.grad is None
            elif wanted is None:
                # With buckets there are zeros, which other ranks' gradients would be added to.
                assert name.startswith("unused")
                assert parameter.grad is None or not parameter.grad.any()
            else:
                # The sum over a group of one, divided by two ranks.
                torch.testing.assert_close(parameter.grad, wanted / 2 if many_ranks else wanted, rtol=1e-6, atol=1e-12)


def test_a_bucket_is_a_run_of_parameters_of_one_type_last_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = model_and_input()
    names = {id(p): name for name, p in model.named_parameters()}

    def split(bucket_bytes: int) -> list[list[str]]:
        monkeypatch.setattr(gradients, "BUCKET_BYTES", bucket_bytes)
        return [[names[id(p)] for p in run] for run in gradients._split(model.parameters())]

    together = [
        ["last.bias", "last.weight"],
        ["narrow.bias", "narrow.weight"],
        *[["frozen.bias", "frozen.weight", "unused.bias", "unused.weight", "first.bias", "first.weight"]],
    ]
    assert split(10**6) == together
    assert split(1) == [[name] for run in together for name in run]
    # 8 bytes a number: 1 + 2; 4 bytes a number: 2 + 8; 4, 16; 2 + 8 + 4; 12.
    assert split(40) == [
        ["last.bias", "last.weight"],
        ["narrow.bias", "narrow.weight"],
        *(["frozen.bias"], ["frozen.weight"], ["unused.bias"], ["unused.weight"], ["first.bias"], ["first.weight"]),
    ]
    assert split(150) == [
        ["last.bias", "last.weight"],
        ["narrow.bias", "narrow.weight"],
        *(["frozen.bias"], ["frozen.weight", "unused.bias"], ["unused.weight", "first.bias"], ["first.weight"]),
    ]


@pytest.mark.parametrize("grouped", ["a group of one"], indirect=True)
def test_sums_begin_in_one_order_and_only_when_gradients_are_final(
    monkeypatch: pytest.MonkeyPatch, many_ranks: bool
) -> None:
    assert many_ranks
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 1)
    model, x = model_and_input()
    averager = GradientAverager(model)
    sent: list[int] = []
    reduce: Callable[..., dist.Work | None] = dist.all_reduce

    def noted(tensor: Tensor, *, async_op: bool = False) -> dist.Work | None:
        sent.append(tensor.numel())
        return reduce(tensor, async_op=async_op)

    monkeypatch.setattr(dist, "all_reduce", noted)
    averager.begin()
    torch.autograd.backward(model(x).sum())
    assert sent == []
    with averager.final():
        torch.autograd.backward(model(x).sum())
    # Nothing overtakes the layer without gradients, which is complete only in the end.
    before_unused = [1, 2, 2, 8]
    assert sent == before_unused
    averager.finish()
    assert sent == [*before_unused, 2, 8, 4, 12]


@pytest.mark.parametrize("grouped", ["a group of one"], indirect=True)
def test_gradients_stay_in_their_buffer(many_ranks: bool) -> None:
    assert many_ranks
    model, x = model_and_input()
    averager = GradientAverager(model)
    averager.begin()
    places = {name: p.grad.data_ptr() for name, p in model.named_parameters() if p.grad is not None}
    assert len(places) == 8
    with averager.final():
        torch.autograd.backward(model(x).sum())
    averager.finish()
    found = {name: p.grad.data_ptr() for name, p in model.named_parameters() if p.grad is not None}
    assert found == places


def test_norm_is_torchs(grouped: bool) -> None:
    model, x = model_and_input()
    torch.autograd.backward(model(x).square().sum())
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    assert float(gradient_norm(model)) == pytest.approx(float(expected), rel=1e-6)
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
    assert float(gradient_norm(model)) == pytest.approx(squares**0.5, rel=1e-6)


def test_norm_without_gradients_is_zero() -> None:
    assert float(gradient_norm(nn.Linear(2, 2))) == 0.0
