"""The import rule: pipeline never imports torch or slip; slip imports of pipeline only its contract."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED_IN_SLIP = {f"pipeline.{name}" for name in ("manifest", "store", "errors", "login_environment", "progress")}


def imported(path: Path) -> set[str]:
    """Full names of what a file imports anywhere, inside functions too; `from a import b` gives a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from pipeline import store` imports pipeline.store, not all of pipeline.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package}: no source file"
    return found


@pytest.mark.parametrize("path", sources("pipeline"), ids=lambda p: str(p.relative_to(ROOT)))
def test_pipeline_imports_neither_torch_nor_slip(path: Path) -> None:
    top = {name.split(".")[0] for name in imported(path)}
    assert not top & {"torch", "torchvision", "timm", "slip"}


@pytest.mark.parametrize("path", sources("slip"), ids=lambda p: str(p.relative_to(ROOT)))
def test_slip_uses_only_the_contract_of_pipeline(path: Path) -> None:
    of_pipeline = {name for name in imported(path) if name.split(".")[0] == "pipeline"}
    modules = {".".join(name.split(".")[:2]) for name in of_pipeline}
    assert modules <= ALLOWED_IN_SLIP, modules - ALLOWED_IN_SLIP


@pytest.mark.parametrize("package", ["pipeline", "slip"])
def test_no_module_shadows_the_standard_library(package: str) -> None:
    assert not {p.stem for p in sources(package)} & set(sys.stdlib_module_names) - {"__init__", "__main__"}
