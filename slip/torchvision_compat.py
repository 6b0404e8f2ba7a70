"""Imports torchvision, also where its compiled operators do not fit the installed torch.

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
