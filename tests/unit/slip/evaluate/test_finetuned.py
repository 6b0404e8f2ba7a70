from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from slip.evaluate.finetune_config import Recipe
from slip.evaluate.finetuned import BatchDropPath, Finetuned, draw_drop_path, drop_paths, layer_groups
from slip.torchvision_compat import import_torchvision
from tests.coloured_pictures import untrained

import_torchvision()
from timm.layers.drop import drop_path  # noqa: E402
from timm.optim._param_groups import param_groups_layer_decay  # noqa: E402

RECIPE = Recipe(epochs=3, warmup_epochs=1, drop_path=0.2, layer_decay=0.65)


def network(recipe: Recipe = RECIPE, *, image_size: int = 16) -> Finetuned:
    trained = untrained()
    shape = dataclasses.replace(trained.config, image_size=image_size)
    return Finetuned(trained.model, shape, recipe, 5, scale=0.001, seed=1)


def beit_layer(name: str, num_layers: int) -> int:
    """BEiT's get_num_layer_for_vit (optim_factory.py), of names without "visual."."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return num_layers + 1


def by_name(model: nn.Module, groups: list[dict[str, object]]) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name.removeprefix("visual.") for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            found[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    return found  # type: ignore[return-value]


def test_layers_are_beits_and_all_but_the_last_norm_timms_own() -> None:
    ours = network()
    found = by_name(ours, layer_groups(ours, RECIPE, 0.05))
    assert len(found) == len(list(ours.parameters()))
    for name, (scale, decay) in found.items():
        assert scale == pytest.approx(0.65 ** (5 - beit_layer(name, 4)))
        vector = dict(ours.named_parameters()).get(
            name, ours.get_parameter(name if "head" in name else f"visual.{name}")
        )
        assert decay == (0.0 if vector.ndim == 1 or name in ("pos_embed", "cls_token") else 0.05)
    # timm's own vision transformer with a head.
    theirs = network().visual
    theirs.reset_classifier(5)
    unmoved = theirs.no_weight_decay()
    expected = by_name(theirs, param_groups_layer_decay(theirs, 0.05, no_weight_decay_list=unmoved, layer_decay=0.65))
    assert {name for name in expected if found[name] != pytest.approx(expected[name])} == {"norm.weight", "norm.bias"}


def test_the_untrained_head_says_next_to_nothing_and_the_feature_is_the_towers() -> None:
    ours, trained, draw = network(), untrained(), torch.Generator().manual_seed(2)
    views = torch.randn(3, 3, 16, 16, generator=draw)
    ours.eval()
    feature = trained.model.image_features(views)
    assert torch.allclose(ours.visual(views), feature, atol=1e-6)
    assert torch.allclose(ours(views), feature @ ours.head.weight.T, atol=1e-6)
    assert 0 < ours.head.weight.std() < 3e-5
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_larger_pictures_have_positions_between_those_learnt() -> None:
    ours, trained = network(image_size=32), untrained()
    views = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    assert ours.visual.get_parameter("pos_embed").shape == (1, 17, 128)
    ours.eval()
    assert torch.allclose(ours.visual(views), trained.model.visual.any_size_features(views), atol=1e-5)


def test_drop_path_is_timms_for_the_same_choices() -> None:
    branch = torch.randn(64, 3, 8, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(11)
    expected = drop_path(branch, 0.3, training=True)
    ours = BatchDropPath(0.3)
    ours.kept_B = (expected.abs().sum(dim=(1, 2)) > 0).float()
    assert 0 < ours.kept_B.mean() < 1
    assert torch.allclose(ours(branch), expected)
    ours.eval()
    assert torch.equal(ours(branch), branch)


def test_drop_path_grows_from_block_to_block_and_is_drawn_for_the_batch() -> None:
    probs = [path.drop_prob for path in drop_paths(network())]
    # The first of four blocks drops nothing, each of the others two branches.
    assert probs == pytest.approx([0.2 / 3, 0.2 / 3, 0.4 / 3, 0.4 / 3, 0.2, 0.2])
    assert drop_paths(network(dataclasses.replace(RECIPE, drop_path=0.0))) == []
    whole = draw_drop_path(probs, 4000, range(4000), seed=1, epoch=2, step=3)
    assert torch.allclose(whole.mean(dim=1), 1 - torch.tensor(probs), atol=0.03)
    some = draw_drop_path(probs, 4000, [7, 3999, 0], seed=1, epoch=2, step=3)
    assert torch.equal(some, whole[:, [7, 3999, 0]])
    assert not torch.equal(whole, draw_drop_path(probs, 4000, range(4000), seed=1, epoch=2, step=4))
