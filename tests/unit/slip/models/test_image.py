from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from slip.config import ModelConfig
from slip.models.image import ImageTower, image_tower
from slip.models.shapes import IMAGE_SHAPES

WIDTH, DEPTH, HEADS, PATCH, SIDE = 32, 3, 4, 4, 12
N = (SIDE // PATCH) ** 2
EPS = 1e-6
B = 3


@pytest.fixture
def tower() -> ImageTower:
    torch.manual_seed(0)
    built: ImageTower = ImageTower(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        global_pool="token",
    ).double()
    built.num_heads = HEADS
    for parameter in built.parameters():  # biases start at zero, where a mix-up of them would not show
        nn.init.normal_(parameter, std=0.3)
    return built


@pytest.fixture
def images() -> Tensor:
    return torch.randn(B, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def some(count: int, seed: int = 2) -> Tensor:
    """Numbers of some patches of each picture, in random order."""
    return torch.rand(B, N, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)[:, :count]


def plain_vit(
    tower: ImageTower, image: Tensor, keep: list[int], hidden: list[int], mask_token: Tensor | None
) -> tuple[dict[int, Tensor], list[Tensor]]:
    """One picture through a vision transformer: outputs by patch (-1: class token), attentions (H, T, T)."""
    state = dict(tower.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        normal = centred / (centred.square().mean(dim=-1, keepdim=True) + EPS).sqrt()
        return normal * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    tokens = [state["cls_token"][0, 0] + state["pos_embed"][0, 0]]
    for number in keep:
        top, left = number // (SIDE // PATCH) * PATCH, number % (SIDE // PATCH) * PATCH
        pixels = image[:, top : top + PATCH, left : left + PATCH].reshape(-1)
        token = state["patch_embed.proj.weight"].view(WIDTH, -1) @ pixels + state["patch_embed.proj.bias"]
        if number in hidden:
            assert mask_token is not None
            token = mask_token
        tokens.append(token + state["pos_embed"][0, 1 + number])
    x, attentions = torch.stack(tokens), []
    for block in range(DEPTH):
        name = f"blocks.{block}"
        q, k, v = (
            part.view(-1, HEADS, WIDTH // HEADS).transpose(0, 1)
            for part in linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=1)
        )
        weights = (q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS)).softmax(dim=-1)
        attentions.append(weights)
        x = x + linear((weights @ v).transpose(0, 1).reshape(-1, WIDTH), f"{name}.attn.proj")
        between = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        x = x + linear(between * (1 + torch.erf(between / math.sqrt(2))) / 2, f"{name}.mlp.fc2")
    return dict(zip([-1, *keep], norm(x, "norm"), strict=True)), attentions


def gradients(found: Tensor, tower: ImageTower, *others: Tensor) -> dict[str, Tensor]:
    weights = torch.arange(found.numel(), dtype=torch.float64).view_as(found).cos()
    names, parameters = zip(*tower.named_parameters(), strict=True)
    grads = torch.autograd.grad((found * weights).sum(), (*parameters, *others))
    return dict(zip([*names, *(f"other{n}" for n in range(len(others)))], grads, strict=True))


def test_whole_picture_is_a_plain_vision_transformer(tower: ImageTower, images: Tensor) -> None:
    expected = torch.stack([plain_vit(tower, image, list(range(N)), [], None)[0][-1] for image in images])
    found = tower(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients(found, tower), gradients(expected, tower), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 4, N])
def test_patches_that_are_not_kept_are_as_if_they_were_not_there(tower: ImageTower, images: Tensor, count: int) -> None:
    keep = some(count)
    expected = torch.stack(
        [plain_vit(tower, image, row.tolist(), [], None)[0][-1] for image, row in zip(images, keep, strict=True)]
    )
    found = tower.kept_features(images, keep)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients(found, tower), gradients(expected, tower), rtol=1e-9, atol=1e-9)


def test_keeping_all_patches_in_any_order_changes_nothing(tower: ImageTower, images: Tensor) -> None:
    torch.testing.assert_close(tower.kept_features(images, some(N)), tower(images), rtol=0, atol=1e-12)


def test_only_kept_patches_pass_the_blocks(tower: ImageTower, images: Tensor) -> None:
    lengths: list[int] = []
    tower.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    tower.kept_features(images, some(4))
    tower(images)
    assert lengths == [1 + 4, 1 + N]


@pytest.mark.parametrize("count", [1, 4, N - 1])
def test_hidden_patches_show_the_mask_token(tower: ImageTower, images: Tensor, count: int) -> None:
    hidden = some(count)
    mask_token = torch.randn(WIDTH, dtype=torch.float64).requires_grad_()
    rows: list[Tensor] = []
    for image, numbers in zip(images, hidden.tolist(), strict=True):
        outputs, _ = plain_vit(tower, image, list(range(N)), numbers, mask_token)
        rows.append(torch.stack([outputs[number] for number in numbers]))
    found = tower.hidden_features(images, hidden, mask_token)
    expected = torch.stack(rows)
    assert found.shape == (B, count, WIDTH)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        gradients(found, tower, mask_token), gradients(expected, tower, mask_token), rtol=1e-9, atol=1e-9
    )


def test_what_is_hidden_is_not_seen(tower: ImageTower, images: Tensor) -> None:
    hidden, mask_token = some(N), torch.zeros(WIDTH, dtype=torch.float64)
    assert torch.equal(
        tower.hidden_features(images, hidden, mask_token), tower.hidden_features(images + 1, hidden, mask_token)
    )


@pytest.mark.parametrize("fused", [True, False])
def test_scores_are_the_mean_attention_from_the_class_token(tower: ImageTower, images: Tensor, fused: bool) -> None:
    for block in tower.blocks:
        block.get_submodule("attn").fused_attn = fused  # type: ignore[assignment]
    expected = []
    for image in images:
        _, attentions = plain_vit(tower, image, list(range(N)), [], None)
        rows = [attention[head, 0, 1:] for attention in attentions for head in range(HEADS)]
        expected.append(torch.stack(rows).mean(dim=0))
    feature, scores = tower.attended(images)
    assert torch.equal(feature, tower(images))
    # Attention is looked at in float32.
    torch.testing.assert_close(scores.double(), torch.stack(expected), rtol=0, atol=1e-6)
    assert bool((scores > 0).all())
    assert bool((scores.sum(dim=1) < 1).all())


def test_scores_cost_one_pass_and_leave_nothing_behind(tower: ImageTower, images: Tensor) -> None:
    calls: list[int] = []
    for number, block in enumerate(tower.blocks):
        block.get_submodule("attn.qkv").register_forward_hook(lambda *_, number=number: calls.append(number))
    tower.attended(images)
    assert calls == list(range(DEPTH))
    assert all(len(block.get_submodule("attn.qkv")._forward_hooks) == 1 for block in tower.blocks)


def test_hooks_are_taken_off_when_the_pass_fails(tower: ImageTower) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        tower.attended(torch.zeros(1, 3, SIDE, 2 * SIDE, dtype=torch.float64))
    assert not any(block.get_submodule("attn.qkv")._forward_hooks for block in tower.blocks)


def visual_calls(tower: ImageTower) -> list[int]:
    """Fills with the number of each block as often as it runs."""
    calls: list[int] = []
    for number, block in enumerate(tower.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    return calls


@pytest.mark.parametrize("way", ["whole", "kept", "hidden"])
def test_activation_checkpointing_changes_no_gradient(tower: ImageTower, images: Tensor, way: str) -> None:
    mask_token = torch.ones(WIDTH, dtype=torch.float64)

    def forward() -> Tensor:
        if way == "hidden":
            return tower.hidden_features(images, some(4), mask_token)
        found: Tensor = tower.kept_features(images, some(4)) if way == "kept" else tower.any_size_features(images)
        return found

    found = forward()
    expected = gradients(found, tower)
    tower.set_grad_checkpointing(True)
    calls = visual_calls(tower)
    again = forward()
    assert calls == list(range(DEPTH))
    grads = gradients(again, tower)
    assert sorted(calls) == sorted([*range(DEPTH), *range(DEPTH)])
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    torch.testing.assert_close(grads, expected, rtol=0, atol=1e-12)
    calls.clear()
    with torch.no_grad():
        forward()
    assert calls == list(range(DEPTH))


def test_pictures_of_any_size_have_positions_between_the_learnt_ones(tower: ImageTower, images: Tensor) -> None:
    torch.testing.assert_close(tower.any_size_features(images), tower(images), rtol=0, atol=1e-12)
    # Where all patches have one position, so has every other grid.
    with torch.no_grad():
        tower.get_parameter("pos_embed")[:, 1:] = 0.7
    small = ImageTower(
        img_size=2 * PATCH,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        global_pool="token",
    ).double()
    small.load_state_dict(tower.state_dict() | {"pos_embed": tower.get_parameter("pos_embed")[:, : 1 + 4]})
    small.num_heads = HEADS
    cut = images[:, :, : 2 * PATCH, : 2 * PATCH]
    torch.testing.assert_close(tower.any_size_features(cut), small(cut), rtol=0, atol=1e-10)
    feature, scores = tower.attended(cut)
    torch.testing.assert_close(feature, small(cut), rtol=0, atol=1e-10)
    torch.testing.assert_close(scores, small.attended(cut)[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", IMAGE_SHAPES)
def test_drop_path_grows_with_depth(name: str) -> None:
    with torch.device("meta"):
        built = image_tower(ModelConfig(tower=name, drop_path=0.3, image_size=224))  # type: ignore[arg-type]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in built.blocks]
    depth = IMAGE_SHAPES[name].depth  # type: ignore[index]
    assert rates == pytest.approx([0.3 * n / (depth - 1) for n in range(depth)])


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_reading_out_the_class_token_alone_changes_neither_feature_nor_gradient(drop_path: float) -> None:
    config = ModelConfig(tower="tiny", image_size=32, drop_path=drop_path)
    tower = image_tower(config).double()
    for parameter in tower.parameters():  # biases start at zero
        nn.init.normal_(parameter, std=0.1)
    pictures = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keep = torch.arange(5).expand(6, -1)
    found = []
    for class_only in (True, False):
        tower.set_class_only(class_only)
        torch.manual_seed(1)
        features = tower(pictures) + tower.kept_features(pictures, keep)
        tower.zero_grad()
        torch.autograd.backward(features.square().sum())
        grads = {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}
        found.append((features.detach(), grads))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-9, atol=1e-11, msg=name)
