"""Image towers: timm's vision transformer without a head, read out at the class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from pipeline.errors import ConfigError
from slip.config import TowerName
from slip.torchvision_compat import import_torchvision


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShape:
    """Size of a vision transformer."""

    width: int
    depth: int
    heads: int
    patch: int


IMAGE_SHAPES: dict[TowerName, ImageShape] = {
    # For demonstrations: 17 positions at 32 x 32 pixels, so that two CPU cores can train them.
    "tiny": ImageShape(width=128, depth=4, heads=4, patch=8),
    # MoCo v3's small form (2104.02057, sec. 5): 12 heads where timm's has 6.
    "vits16": ImageShape(width=384, depth=12, heads=12, patch=16),
    "vitb16": ImageShape(width=768, depth=12, heads=12, patch=16),
    "vitl16": ImageShape(width=1024, depth=24, heads=16, patch=16),
}


def image_tower(name: TowerName, image_size: int) -> nn.Module:
    """A tower for square pictures: (B, 3, image_size, image_size) -> (B, width), initialised as timm does."""
    shape = IMAGE_SHAPES[name]
    if image_size < shape.patch or image_size % shape.patch:
        raise ConfigError(
            f"--model.image-size is {image_size}; tower {name} cuts pictures into patches of {shape.patch} x "
            f"{shape.patch} pixels, so it must be a multiple of {shape.patch}"
        )
    # timm imports torchvision.
    import_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    tower = VisionTransformer(
        img_size=image_size,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        num_classes=0,
        global_pool="token",
    )
    return cast(nn.Module, tower)
