"""Imports torchvision, also where its compiled operators do not fit the installed torch; and timm, without wandb.

The torchvision wheel beside a CPU build of torch may want CUDA's libraries; its operators then do not load
and `import torchvision` ends with "operator torchvision::nms does not exist", because a registration for the
shape of `nms` is not optional. This project uses none of those operators (transforms, and timm's and open_clip's
imports of them, are plain Python), so declaring the two missing schemas is enough.

Call `import_torchvision()` before timm, open_clip or torchvision is imported, in every process.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_MISSING = "operator torchvision::nms does not exist"

# A schema lives as long as the Library object that defined it.
_declared: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """Import torchvision and return it; every other failure than the missing operators is passed on."""
    global _declared
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared is not None or str(error) != _MISSING:
            raise
    _declared = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    # Python forgets the package whose import failed, but not the submodules that had already finished.
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """Import timm and return it, torchvision before it, but not Weights & Biases, which timm would import for itself.

    Only timm's own training scripts use that. It took 0.7 of the 6 seconds in which a training process starts.
    """
    import_torchvision()
    if "wandb" in sys.modules:
        return importlib.import_module("timm")
    sys.modules["wandb"] = None  # type: ignore[assignment]  # an import of it then fails as if it were not installed
    try:
        return importlib.import_module("timm")
    finally:
        del sys.modules["wandb"]
