"""The network of fine-tuning: an image tower with a linear head, its groups of learning rates and its drop path.

In: a trained network. Out: a classifier of which all parameters are trained, and the groups that AdamW takes.

Letters: B pictures of this rank, G on all ranks, S side of a view, T tokens, W width of the tower, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slip.config import ModelConfig
from slip.evaluate.finetune_config import Recipe
from slip.evaluate.mixing import seed_of
from slip.models.image import image_tower
from slip.models.model import Model
from slip.models.shapes import IMAGE_SHAPES
from slip.torchvision_compat import import_torchvision

import_torchvision()
from timm.layers.drop import DropPath  # noqa: E402
from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402
from timm.optim._param_groups import param_groups_layer_decay  # noqa: E402


class BatchDropPath(nn.Module):
    """timm's DropPath, whose choices are made for the whole batch and handed in: see `draw_drop_path`."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.kept_B: Tensor | None = None
        """0 or 1 for each picture of the next forward pass."""

    def forward(self, x_BTW: Tensor) -> Tensor:
        """The branch of pictures that keep it, scaled up for the others; all of it in evaluation."""
        if not self.training:
            return x_BTW
        assert self.kept_B is not None
        return x_BTW * (self.kept_B / (1 - self.drop_prob)).to(x_BTW.dtype).view(-1, 1, 1)


def drop_paths(network: nn.Module) -> list[BatchDropPath]:
    """In the order of the blocks."""
    return [module for module in network.modules() if isinstance(module, BatchDropPath)]


def draw_drop_path(
    probs: Sequence[float], batch: int, places: Sequence[int], *, seed: int, epoch: int, step: int
) -> Tensor:
    """Which of P branches the pictures at some places of a batch keep in one step: (P, B) of 0 and 1.

    Args:
        probs: of leaving out each branch.
    """
    # Groups of mixing are numbered from 0, so this number is nobody else's.
    draw = torch.Generator().manual_seed(seed_of(seed, epoch, step, 1 << 32))
    uniform = torch.rand(len(probs), batch, generator=draw)
    return (uniform[:, list(places)] >= torch.tensor(probs).view(-1, 1)).float()


class Finetuned(Model):
    """An image tower and a head. Of a `Model` it is what looks at pictures, and its feature is the logits (B, C)."""

    def __init__(
        self, trained: Model, config: ModelConfig, recipe: Recipe, num_classes: int, *, scale: float, seed: int
    ):
        nn.Module.__init__(self)
        self.has_text = False
        self.visual = image_tower(dataclasses.replace(config, drop_path=recipe.drop_path))
        weights = dict(trained.visual.state_dict())
        weights["pos_embed"] = resample_abs_pos_embed(
            weights["pos_embed"], self.visual.patch_embed.grid_size, trained.visual.patch_embed.grid_size
        )
        self.visual.load_state_dict(weights)
        for block in self.visual.blocks:
            for name in ("drop_path1", "drop_path2"):
                usual = block.get_submodule(name)
                if isinstance(usual, DropPath):
                    setattr(block, name, BatchDropPath(usual.drop_prob))
        self.head = nn.Linear(IMAGE_SHAPES[config.tower].width, num_classes)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=0.02, generator=draw).mul_(scale)
            self.head.bias.zero_()

    def image_features(self, image_B3SS: Tensor) -> Tensor:
        """Logits (B, C), float32."""
        feature_BW: Tensor = self.visual(image_B3SS)
        with torch.autocast(image_B3SS.device.type, enabled=False):
            logits_BC: Tensor = self.head(feature_BW.float())
            return logits_BC

    def forward(self, image_B3SS: Tensor) -> Tensor:
        """`image_features`."""
        return self.image_features(image_B3SS)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """For timm: which parameters are of which layer. As in BEiT the last norm learns as fast as the head."""
        return {"stem": r"^visual\.(?:cls_token|pos_embed|patch_embed)", "blocks": [(r"^visual\.blocks\.(\d+)", None)]}


def layer_groups(network: Finetuned, recipe: Recipe, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: `lr_scale` 1 for head and last norm, layer_decay for the last block, squared for the one before
    it and so on to the embeddings; no weight decay for vectors, position embeddings and the class token."""
    unmoved = {f"visual.{name}" for name in network.visual.no_weight_decay()}
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network, weight_decay=weight_decay, no_weight_decay_list=unmoved, layer_decay=recipe.layer_decay
    )
    return groups
