from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

from slip import torchvision_compat

_FRESH = """
import sys
from slip.torchvision_compat import import_timm, import_torchvision
first = import_torchvision()
assert import_torchvision() is first
timm = import_timm()
assert import_timm() is timm
assert not any(name.split(".")[0] == "wandb" for name in sys.modules)
import wandb
import torchvision.transforms.v2
import timm.models.vision_transformer
assert torchvision is first
"""


def test_timm_imports_after_it_in_a_fresh_process() -> None:
    subprocess.run([sys.executable, "-c", _FRESH], check=True, timeout=120)


def test_other_errors_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::roi_align does not exist")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(torchvision_compat, "_declared", None)
    with pytest.raises(RuntimeError, match="roi_align"):
        torchvision_compat.import_torchvision()
    assert torchvision_compat._declared is None
