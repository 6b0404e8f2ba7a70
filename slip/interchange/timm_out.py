"""The image tower for timm: weights and configuration that timm.create_model takes.

In: a trained model of any objective. Out: model.safetensors (names and orientation are timm's), config.json in the form
of timm's hub (timm.models._hub), README.md. Written for timm 1.0; its "local-dir:" reads the folder as it is, and
checkpoint_path the weights alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slip.config import ModelConfig, TowerName
from slip.interchange.about import Export, as_json, metadata, origin, preprocess, readme
from slip.interchange.names import for_timm, left_out
from slip.interchange.safetensors_out import LAST, WEIGHTS, write_safetensors
from slip.models.shapes import IMAGE_SHAPES

__all__ = ["ARCHITECTURES", "LAST", "arguments", "write"]

ARCHITECTURES: dict[TowerName, str] = {
    "tiny": "vit_tiny_patch16_224",
    "vits16": "vit_small_patch16_224",
    "vitb16": "vit_base_patch16_224",
    "vitl16": "vit_large_patch16_224",
}
# What timm's functions of these names say by themselves: width, blocks, heads, patch.
_OWN: dict[str, tuple[int, int, int, int]] = {
    "vit_tiny_patch16_224": (192, 12, 3, 16),
    "vit_small_patch16_224": (384, 12, 6, 16),
    "vit_base_patch16_224": (768, 12, 12, 16),
    "vit_large_patch16_224": (1024, 24, 16, 16),
}
_OWN_IMAGE_SIZE = 224


def arguments(model: ModelConfig) -> tuple[str, dict[str, int]]:
    """timm's architecture for a tower, and what it must be told beside the name.

    vits16 at 224 pixels, which has 12 heads as MoCo v3's: ("vit_small_patch16_224", {"num_heads": 12}).
    """
    name, shape = ARCHITECTURES[model.tower], IMAGE_SHAPES[model.tower]
    wanted = {"embed_dim": shape.width, "depth": shape.depth, "num_heads": shape.heads, "patch_size": shape.patch}
    own = dict(zip(wanted, _OWN[name], strict=True))
    differ = {argument: value for argument, value in wanted.items() if value != own[argument]}
    if model.image_size != _OWN_IMAGE_SIZE:
        differ["img_size"] = model.image_size
    return name, differ


def _pretrained_cfg(export: Export) -> dict[str, Any]:
    picture = preprocess(export)
    return {
        "input_size": [3, picture["size"], picture["size"]],
        "fixed_input_size": True,
        "interpolation": picture["interpolation"],
        "crop_pct": 1.0,
        "crop_mode": picture["crop"],
        "mean": picture["mean"],
        "std": picture["std"],
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def write(export: Export, folder: Path) -> None:
    """Write the folder's files."""
    name, differ = arguments(export.trained.config)
    tower = for_timm(export.trained.model.state_dict())
    write_safetensors(folder / WEIGHTS, tower, metadata(export))
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": IMAGE_SHAPES[export.trained.config.tower].width,
        "global_pool": "token",
        "model_args": differ,
        "pretrained_cfg": _pretrained_cfg(export),
        "origin": origin(export),
    }
    (folder / LAST).write_text(as_json(config), encoding="utf-8")
    extra = "".join(f", {argument}={value}" for argument, value in differ.items())
    code = "\n".join(
        [
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
            "# or, of the weights alone:",
            f'model = timm.create_model("{name}", num_classes=0{extra}, checkpoint_path="FOLDER/{WEIGHTS}")',
        ]
    )
    without = left_out(export.trained.model.state_dict(), text=False)
    text = readme(
        export, code=code, notes="The image tower; its output is the feature at the class token.", without=without
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
