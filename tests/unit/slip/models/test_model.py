from __future__ import annotations

import dataclasses
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slip.config import ModelConfig, ObjectiveConfig
from slip.models.image import ImageTower
from slip.models.inputs import TowerInputs
from slip.models.model import Model
from slip.models.registry import build_model
from slip.objectives.slip import objective_terms

TINY = ModelConfig(tower="tiny", image_size=32, ssl_hidden=16, ssl_dim=6, embed_dim=10)
N, B, WIDTH = 16, 3, 128
ALL = ObjectiveConfig(name="slip", ssl=("simclr", "mocov3", "byol", "mim"))
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "clip": ObjectiveConfig(name="clip"),
    "siglip": ObjectiveConfig(name="siglip"),
    "simclr": ObjectiveConfig(name="simclr"),
    "mocov3": ObjectiveConfig(name="mocov3"),
    "byol": ObjectiveConfig(name="byol"),
    "mim": ObjectiveConfig(name="mim"),
    "slip": ObjectiveConfig(name="slip"),
    "slip-all": ALL,
    "slip-all-shared": dataclasses.replace(ALL, clip_view="shared"),
}


def inputs_of(model: Model, *, kept: int = 0) -> TowerInputs:
    draw = torch.Generator().manual_seed(0)
    hidden_view = model.needs.hidden_view

    def some(count: int) -> Tensor:
        return torch.rand(B, N, generator=draw).argsort(dim=1)[:, :count]

    whole = len(model.needs.views) - (hidden_view is not None)
    return TowerInputs(
        views=tuple(torch.randn(B, 3, 32, 32, generator=draw) for _ in model.needs.views),
        tokens=torch.tensor([[49406, 5, 49407, 0], [49406, 6, 7, 49407], [49406, 49407, 0, 0]])
        if model.needs.text
        else None,
        keep=tuple(some(kept) for _ in range(whole)) if kept else (),
        hidden=some(6) if hidden_view is not None else None,
    )


def follower(model: Model) -> ImageTower:
    """The momentum tower."""
    return cast(ImageTower, model.momentum.visual)


def with_momentum_moved(model: Model) -> Model:
    """The same model with a momentum tower that is not the tower."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.momentum.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.mark.parametrize("kept", [0, 5])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_step_uses_every_parameter(name: str, kept: int) -> None:
    model = build_model(TINY, OBJECTIVES[name])
    inputs, targets = model.look(inputs_of(model, kept=kept))
    terms = objective_terms(model.embed(model.features(inputs), targets), OBJECTIVES[name])
    torch.autograd.backward(terms["loss"])
    # The class token's and the image tower's last parts included.
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_embeddings_are_those_of_each_view_by_itself() -> None:
    model = with_momentum_moved(build_model(TINY, ALL)).double()
    inputs = inputs_of(model)
    inputs = dataclasses.replace(inputs, views=tuple(view.double() for view in inputs.views))
    again, targets = model.look(inputs)
    found = model.embed(model.features(again), targets)
    assert inputs.tokens is not None
    assert found.text is not None
    torch.testing.assert_close(found.image[0], model.encode_image(inputs.views[0]))
    torch.testing.assert_close(found.text, model.encode_text(inputs.tokens))
    assert found.logit_scale is not None
    assert found.logit_scale.item() == pytest.approx(1 / 0.07)
    assert found.logit_bias is None
    first, second = (model.image_features(view) for view in inputs.views[1:3])
    assert found.simclr is not None
    torch.testing.assert_close(found.simclr, (model.image_mlp(first), model.image_mlp(second)))
    momentum = model.momentum
    targets_ = [momentum.visual(view) for view in inputs.views[1:3]]
    torch.testing.assert_close(targets.momentum, tuple(targets_))
    for name, pairs in (("mocov3", found.mocov3), ("byol", found.byol)):
        assert pairs is not None
        projector, predictor = model.get_submodule(f"{name}_projector"), model.get_submodule(f"{name}_predictor")
        torch.testing.assert_close(pairs[0], (predictor(projector(first)), predictor(projector(second))))
        follower = momentum.projectors[name]
        torch.testing.assert_close(pairs[1], (follower(targets_[0]), follower(targets_[1])))
        assert not any(key.requires_grad for key in pairs[1])
    assert found.mim is not None
    assert found.mim[0].shape == found.mim[1].shape == (B, 6, 3 * 8**2)


def test_views_that_share_a_caption_are_both_embedded() -> None:
    model = build_model(TINY, OBJECTIVES["slip-all-shared"])
    inputs, targets = model.look(inputs_of(model))
    found = model.embed(model.features(inputs), targets)
    assert len(found.image) == 2
    for image, view in zip(found.image, inputs.views, strict=False):
        torch.testing.assert_close(image, model.encode_image(view), rtol=1e-4, atol=1e-5)


def test_without_captions_a_picture_is_embedded_as_its_feature() -> None:
    model = build_model(TINY, OBJECTIVES["simclr"])
    view = inputs_of(model).views[0]
    assert torch.equal(model.encode_image(view), model.image_features(view))
    assert model.encode_image(view).shape == (B, WIDTH)


@pytest.mark.parametrize("objective", ["clip", "slip-all"])
def test_attentive_masking_keeps_what_the_momentum_tower_attends_to_most(objective: str) -> None:
    model = with_momentum_moved(
        build_model(dataclasses.replace(TINY, masking="attentive", mask_keep=0.3), OBJECTIVES[objective])
    )
    inputs = inputs_of(model)
    looked, _ = model.look(inputs)
    assert inputs.keep == ()
    scored = model.needs.scored_views
    assert len(looked.keep) == len(scored) == (1 if objective == "clip" else 3)
    for keep, number in zip(looked.keep, scored, strict=True):
        with torch.no_grad():
            _, scores = follower(model).attended(inputs.views[number])
        for row, score in zip(keep.tolist(), scores.tolist(), strict=True):
            least = sorted(score)[-round(0.3 * N)]
            assert row == [patch for patch in range(N) if score[patch] >= least]
    features = model.features(looked)
    for feature, keep, number in zip(features.views, looked.keep, scored, strict=True):
        torch.testing.assert_close(
            feature, model.visual.kept_features(inputs.views[number], keep), rtol=1e-4, atol=1e-5
        )


def test_momentum_tower_may_see_smaller_views() -> None:
    config = dataclasses.replace(TINY, masking="attentive", momentum_scale=0.5)
    model = with_momentum_moved(build_model(config, OBJECTIVES["byol"]))
    inputs = inputs_of(model)
    looked, targets = model.look(inputs)
    small = F.interpolate(inputs.views[1], size=(16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        feature, scores = follower(model).attended(small)
    torch.testing.assert_close(targets.momentum[1], feature, rtol=1e-4, atol=1e-5)
    assert scores.shape == (B, 4)
    assert [keep.shape for keep in looked.keep] == [(B, N // 2)] * 2
    # Every patch of the coarse grid is two by two of the fine one; the best one's corner of the view is among the kept.
    for row, score in zip(looked.keep[1].tolist(), scores, strict=True):
        across, down = int(score.argmax()) % 2, int(score.argmax()) // 2
        assert (3 * down) * 4 + 3 * across in row


def test_looking_has_no_gradient_and_no_draw() -> None:
    model = build_model(dataclasses.replace(TINY, drop_path=0.5), OBJECTIVES["byol"])
    state = torch.get_rng_state()
    _, targets = model.look(inputs_of(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(target.requires_grad for target in targets.momentum)
    assert model.visual.training
    assert not model.momentum.visual.training
    assert model.momentum.projectors.training
    model.eval()
    assert not model.momentum.projectors.training
    model.train()
    assert not model.momentum.visual.training


def test_momentum_follows_tower_and_projectors() -> None:
    model = build_model(TINY, OBJECTIVES["byol"])
    before = {n: p.detach().clone() for n, p in model.momentum.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    model.update_momentum(0.9)
    for name, parameter in model.momentum.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.05, rtol=0, atol=1e-6)
    clip = build_model(TINY, OBJECTIVES["clip"])
    clip.update_momentum(0.9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_embeddings_are_float32_under_autocast(name: str) -> None:
    model = build_model(TINY, OBJECTIVES[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inputs, targets = model.look(inputs_of(model))
        found = model.embed(model.features(inputs), targets)
    assert {x.dtype for x in found.rows()} == {torch.float32}


def test_logit_scale_is_kept_within_its_bounds() -> None:
    model = build_model(TINY, OBJECTIVES["clip"])
    for value, kept in ((5.0, 4.6052), (-1.0, 0.0), (2.0, 2.0)):
        model.logit_scale.data.fill_(value)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(kept, abs=1e-4)
    build_model(TINY, OBJECTIVES["simclr"]).clamp_logit_scale()
