from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from slip.config import ModelConfig, ObjectiveConfig
from slip.exact_batch import ExactBatch
from slip.gradients import GradientAverager
from slip.models.inputs import Features, TowerInputs
from slip.models.model import Model
from slip.models.registry import build_model
from slip.objectives.slip import objective_terms

BATCH = 10
CONFIG = ModelConfig(tower="tiny", image_size=16, context_length=8, ssl_hidden=12, ssl_dim=6, embed_dim=8)
OBJECTIVES: dict[str, tuple[ObjectiveConfig, ModelConfig]] = {
    "clip": (ObjectiveConfig(name="clip"), CONFIG),
    "siglip": (ObjectiveConfig(name="siglip"), CONFIG),
    "slip": (ObjectiveConfig(name="slip", ssl_scale=0.7), CONFIG),
    "byol": (ObjectiveConfig(name="byol"), CONFIG),
    "mim": (ObjectiveConfig(name="mim"), CONFIG),
    "all-shared-attentive": (
        ObjectiveConfig(name="slip", ssl=("simclr", "mocov3", "byol", "mim"), clip_view="shared"),
        dataclasses.replace(CONFIG, masking="attentive"),
    ),
}


def model_of(name: str, **changes: Any) -> Model:
    objective, config = OBJECTIVES[name]
    model = build_model(dataclasses.replace(config, **changes), objective, seed=3).double()
    # Two blocks are as good as four, and the words of these captions are few.
    for tower in (model.visual, *([model.momentum.visual] if model.needs.momentum_views else [])):
        tower.blocks = tower.blocks[:2]  # type: ignore[index]
    if model.has_text:
        model.transformer.resblocks = model.transformer.resblocks[:2]
        rows = model.token_embedding.weight.detach()[:50].clone()
        model.token_embedding = torch.nn.Embedding(len(rows), rows.shape[1], _weight=rows)
    return model


def batch_of(model: Model, num: int = BATCH) -> TowerInputs:
    draw = torch.Generator().manual_seed(1)
    views = tuple(torch.randn(num, 3, 16, 16, dtype=torch.float64, generator=draw) for _ in model.needs.views)
    tokens = torch.randint(1, 49, (num, 7), generator=draw)
    tokens[torch.arange(num), torch.randint(1, 7, (num,), generator=draw)] = 49
    hidden = torch.rand(num, 4, generator=draw).argsort(dim=1)[:, :2]
    return TowerInputs(
        views=views,
        tokens=tokens if model.needs.text else None,
        hidden=hidden if model.needs.hidden_view is not None else None,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one step leaves behind."""

    terms: dict[str, float]
    grads: dict[str, Tensor]
    buffers: dict[str, Tensor]
    model: Model


def step(name: str, micro: int, *, seed: int = 5, **changes: Any) -> Found:
    model = model_of(name, **changes)
    exact = ExactBatch(model, OBJECTIVES[name][0], GradientAverager(model), micro_batch=micro)
    _, terms = exact(batch_of(model), seed=seed)
    return Found(
        terms={n: term.item() for n, term in terms.items()},
        grads={n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        buffers=dict(model.named_buffers()),
        model=model,
    )


def assert_same(found: Found, expected: Found, tolerance: float = 1e-10) -> None:
    assert found.terms == pytest.approx(expected.terms, rel=0, abs=tolerance)
    assert found.grads.keys() == expected.grads.keys()
    largest = max(float(grad.abs().max()) for grad in expected.grads.values())
    assert largest > 1e-3
    for name, grad in expected.grads.items():
        assert float((found.grads[name] - grad).abs().max()) <= tolerance * largest, name
    torch.testing.assert_close(found.buffers, expected.buffers, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def at_once() -> dict[str, Found]:
    torch.set_num_threads(1)
    return {name: step(name, 0) for name in OBJECTIVES}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_at_once_is_the_plain_loss_and_gradient(at_once: dict[str, Found], name: str) -> None:
    model = model_of(name)
    inputs, targets = model.look(batch_of(model))
    terms = objective_terms(model.embed(model.features(inputs), targets), OBJECTIVES[name][0])
    torch.autograd.backward(terms["loss"])
    plain = Found(
        terms={n: term.item() for n, term in terms.items()},
        grads={n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        buffers=dict(model.named_buffers()),
        model=model,
    )
    assert_same(at_once[name], plain)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert at_once[name].grads.keys() == trained


@pytest.mark.parametrize("micro", [1, 3, 4, BATCH - 1, BATCH, BATCH + 1])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_of_any_size_give_the_batchs_loss_and_gradient(at_once: dict[str, Found], name: str, micro: int) -> None:
    assert_same(step(name, micro), at_once[name])


@pytest.mark.parametrize("name", ["slip", "all-shared-attentive"])
@pytest.mark.parametrize("micro", [0, 3])
def test_activation_checkpointing_changes_nothing(at_once: dict[str, Found], name: str, micro: int) -> None:
    assert_same(step(name, micro, activation_checkpointing=True), at_once[name])


@pytest.mark.parametrize("name", ["slip", "all-shared-attentive"])
def test_statistics_are_updated_once_a_step_and_not_once_a_part(name: str) -> None:
    found = step(name, 3)
    counts = {n: int(b) for n, b in found.buffers.items() if n.endswith("num_batches_tracked")}
    assert counts
    # Two views pass each head, one after the other.
    assert set(counts.values()) == {2}


class Noted:
    """Notes what `Model.features` gives, and whether with a graph."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_graph: list[Features] = []
        self.without: list[Features] = []
        features = model.features

        def noted(inputs: TowerInputs) -> Features:
            found = features(inputs)
            (self.with_graph if torch.is_grad_enabled() else self.without).append(found)
            return found

        monkeypatch.setattr(model, "features", noted)


def bits(features: Features) -> list[Tensor]:
    return [x.detach() for x in features.tensors()]


def of_parts(
    name: str, monkeypatch: pytest.MonkeyPatch, *, micro: int, seed: int, **changes: Any
) -> tuple[Noted, dict[str, Tensor]]:
    model = model_of(name, drop_path=0.3, **changes)
    noted = Noted(model, monkeypatch)
    exact = ExactBatch(model, OBJECTIVES[name][0], GradientAverager(model), micro_batch=micro)
    exact(batch_of(model), seed=seed)
    return noted, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["slip", "all-shared-attentive"])
def test_both_passes_of_a_part_draw_the_same(monkeypatch: pytest.MonkeyPatch, name: str, checkpointing: bool) -> None:
    noted, _ = of_parts(name, monkeypatch, micro=3, seed=5, activation_checkpointing=checkpointing)
    assert len(noted.without) == len(noted.with_graph) == 4
    for first, again in zip(noted.without, noted.with_graph, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(bits(first), bits(again), strict=True))


def test_parts_and_steps_draw_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    # All samples alike: what differs was drawn.
    model = model_of("clip", drop_path=0.3)
    batch = batch_of(model, 1)
    alike = TowerInputs(views=(batch.views[0].expand(8, -1, -1, -1),), tokens=torch.full((8, 7), 49))
    noted = Noted(model, monkeypatch)
    exact = ExactBatch(model, OBJECTIVES["clip"][0], GradientAverager(model), micro_batch=4)
    for seed in (5, 6, 5):
        exact(alike, seed=seed)
    passes = [features.views[0].detach() for features in noted.without]
    one_a, one_b, other_a, _, again_a, again_b = passes
    assert not torch.equal(one_a, one_b)
    assert not torch.equal(one_a, other_a)
    assert torch.equal(one_a, again_a)
    assert torch.equal(one_b, again_b)


@pytest.mark.parametrize("micro", [0, 3])
def test_nothing_is_drawn_from_the_state_before(monkeypatch: pytest.MonkeyPatch, micro: int) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(of_parts("all-shared-attentive", monkeypatch, micro=micro, seed=5)[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_with_drop_path_is_that_of_the_drawn_network(
    monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """One graph over all parts, each with the draws of its seed, has the gradient that parts add up to."""
    noted, grads = of_parts("slip", monkeypatch, micro=3, seed=5, activation_checkpointing=checkpointing)
    model = model_of("slip", drop_path=0.3)
    batch = batch_of(model)
    states: list[Tensor] = []

    def features(inputs: TowerInputs) -> Features:
        states.append(torch.get_rng_state())
        return Model.features(model, inputs)

    # The random states in which the parts begin, then one forward pass with graph from each of them.
    watched = model_of("slip", drop_path=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "features", features)
        ExactBatch(watched, OBJECTIVES["slip"][0], GradientAverager(watched), micro_batch=3)
        exact = ExactBatch(watched, OBJECTIVES["slip"][0], GradientAverager(watched), micro_batch=3)
        exact(batch, seed=5)
    assert len(states) == 8
    found: list[Features] = []
    for number, state in enumerate(states[:4]):
        torch.set_rng_state(state)
        rows = slice(3 * number, 3 * number + 3)
        part = TowerInputs(
            views=tuple(view[rows] for view in batch.views),
            tokens=batch.tokens[rows] if batch.tokens is not None else None,
        )
        found.append(model.features(part))
    assert all(
        torch.equal(a, b)
        for part, again in zip(found, noted.with_graph, strict=True)
        for a, b in zip(bits(part), bits(again), strict=True)
    )
    whole = Features(
        views=tuple(torch.cat(views) for views in zip(*(part.views for part in found), strict=True)),
        text=torch.cat([part.text for part in found if part.text is not None]),
        hidden=None,
    )
    model.zero_grad()
    _, targets = model.look(batch)
    torch.autograd.backward(objective_terms(model.embed(whole, targets), OBJECTIVES["slip"][0])["loss"])
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert float((parameter.grad - grads[name]).abs().max()) < 1e-10 * largest, name


def test_autocast_is_entered_for_towers_and_left_by_losses() -> None:
    objective = OBJECTIVES["slip"][0]
    for micro in (0, 3):
        model = model_of("slip").float()
        batch = batch_of(model)
        batch = dataclasses.replace(batch, views=tuple(view.float() for view in batch.views))
        seen: list[torch.dtype] = []
        model.visual.get_submodule("blocks.0.attn.qkv").register_forward_hook(
            lambda *call, seen=seen: seen.append(call[-1].dtype)
        )
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        exact = ExactBatch(model, objective, GradientAverager(model), micro_batch=micro, autocast=autocast)
        embeddings, terms = exact(batch, seed=1)
        assert set(seen) == {torch.bfloat16}
        assert {x.dtype for x in embeddings.rows()} == {torch.float32}
        assert terms["loss"].dtype == torch.float32
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
