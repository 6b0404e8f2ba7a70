"""Sizes of the towers by name; imports neither torch nor timm, so a plan of a run can be made without them."""

from __future__ import annotations

from dataclasses import dataclass

from slip.config import ModelConfig, TowerName

VOCABULARY = 49_408


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShape:
    """Size of a vision transformer."""

    width: int
    depth: int
    heads: int
    patch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """Size of a text transformer."""

    width: int
    layers: int
    heads: int
    context: int = 77
    vocabulary: int = VOCABULARY


IMAGE_SHAPES: dict[TowerName, ImageShape] = {
    # For demonstrations: 17 positions at 32 x 32 pixels, so that two CPU cores can train them.
    "tiny": ImageShape(width=128, depth=4, heads=4, patch=8),
    # MoCo v3's small form (2104.02057, sec. 5): 12 heads where timm's has 6.
    "vits16": ImageShape(width=384, depth=12, heads=12, patch=16),
    "vitb16": ImageShape(width=768, depth=12, heads=12, patch=16),
    "vitl16": ImageShape(width=1024, depth=24, heads=16, patch=16),
}


def text_shape(name: TowerName, context: int) -> TextShape:
    """The text tower that goes with an image tower: as published, but small beside `tiny`."""
    if name == "tiny":
        return TextShape(width=128, layers=4, heads=2, context=context)
    return TextShape(width=512, layers=12, heads=8, context=context)


def patch_grid(model: ModelConfig) -> int:
    """Patches along a side of a view."""
    return model.image_size // IMAGE_SHAPES[model.tower].patch


def num_kept(model: ModelConfig) -> int:
    """Patches of a view that masking keeps."""
    return max(1, round(patch_grid(model) ** 2 * model.mask_keep))


def num_hidden(model: ModelConfig) -> int:
    """Patches of a view that are hidden for mim."""
    return max(1, round(patch_grid(model) ** 2 * model.mim_masked))


def momentum_grid(model: ModelConfig) -> int:
    """Patches along a side of what the momentum tower sees of a view."""
    return max(1, round(patch_grid(model) * model.momentum_scale))
