"""Both towers for open_clip: weights and configuration that open_clip.create_model takes.

In: a trained model with a text tower. Out: open_clip_config.json, open_clip_model.safetensors, README.md, in the form
of open_clip's hub; "local-dir:" of open_clip 3 reads the folder as it is. open_clip has one switch for QuickGELU, which
the text tower needs and the image tower must not have; timm's towers never look at it, so the image tower is timm's. It
is created by name alone: a tower for which timm has none (vits16 with 12 heads, tiny, other picture sizes) brings a
small module along that gives it one, as the published code does (vit_small_mocov3_patch16_224).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from slip.config import ModelConfig
from slip.interchange.about import Export, as_json, metadata, origin, preprocess, readme
from slip.interchange.names import for_open_clip, left_out
from slip.interchange.safetensors_out import write_safetensors
from slip.interchange.timm_out import arguments
from slip.models.shapes import text_shape

LAST = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"

_TOWER_CODE = '''"""Gives timm a name for this folder's image tower; import it before open_clip reads the folder."""

from timm.models import register_model
from timm.models.vision_transformer import {architecture}


@register_model
def {name}(pretrained=False, **kwargs):
    return {architecture}(pretrained=pretrained, **({arguments} | kwargs))
'''


def tower_name(model: ModelConfig) -> str:
    """The image tower's name for timm: timm's own, else the one that the module gives it: "slip_vits16_224"."""
    architecture, differ = arguments(model)
    return f"slip_{model.tower}_{model.image_size}" if differ else architecture


def model_config(export: Export) -> dict[str, Any]:
    """What open_clip.CLIP is created with."""
    config = export.trained.config
    text = text_shape(config.tower, config.context_length)
    created: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "quick_gelu": True,
        "vision_cfg": {
            "timm_model_name": tower_name(config),
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": "linear",
            "timm_proj_bias": False,
            "image_size": config.image_size,
        },
        "text_cfg": {
            "context_length": text.context,
            "vocab_size": text.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }
    if export.trained.model.needs.bias:
        # Without a start value open_clip makes no bias.
        created["init_logit_bias"] = export.trained.model.logit_bias.item()
    return created


def write(export: Export, folder: Path) -> None:
    """Write the folder's files; ConfigError when there is no text tower."""
    trained = export.trained
    if not trained.model.has_text:
        raise ConfigError(
            f"--to open_clip: {export.checkpoint} was trained with objective {trained.objective.name}, which has no "
            "text tower; its image tower goes to timm (--to timm)"
        )
    write_safetensors(folder / WEIGHTS, for_open_clip(trained.model.state_dict()), metadata(export))
    picture = preprocess(export)
    config = {
        "model_cfg": model_config(export),
        "preprocess_cfg": {name: picture[name] for name in ("mean", "std", "interpolation", "resize_mode")},
        "origin": origin(export),
    }
    (folder / LAST).write_text(as_json(config), encoding="utf-8")
    code = [
        "import open_clip",
        "",
        'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")',
        'tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")',
    ]
    notes = "Image and text tower, with the projections to their shared space."
    architecture, differ = arguments(trained.config)
    if differ:
        name = tower_name(trained.config)
        module = _TOWER_CODE.format(architecture=architecture, name=name, arguments=differ)
        (folder / f"{name}.py").write_text(module, encoding="utf-8")
        code = ["import sys", "", 'sys.path.insert(0, "FOLDER")', f"import {name}", *code]
        notes += f" timm has no name for this image tower; {name}.py gives it one."
    text = readme(export, code="\n".join(code), notes=notes, without=left_out(trained.model.state_dict(), text=True))
    (folder / "README.md").write_text(text, encoding="utf-8")
