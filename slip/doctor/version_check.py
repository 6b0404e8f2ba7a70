"""Whether all ranks run the same software: one that differs gives other numbers, or hangs in the first collective.

In: on each rank, its own files and libraries. Out: a bad row for each that is not the same everywhere, with the nodes
on either side.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline import store
from slip.data import kernel
from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding, place
from slip.versions import pillow

CHECK = "versions"

Versions = dict[str, str]
"""Name -> version; "none" for what is not there."""

_DISTRIBUTIONS = ("torchvision", "timm", "numpy", "pyarrow", "open_clip_torch", "obstore", "simplejpeg")
_SHOWN = ("python", "torch", "CUDA", "NCCL", "timm", "numpy", "Pillow", "code")


def code_digest(folders: Iterable[Path]) -> str:
    """The beginning of a digest over names and content of all .py files in these folders."""
    digest = sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _nccl() -> str:
    if not (torch.cuda.is_available() and dist.is_nccl_available()):
        return "none"
    return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]


def versions() -> Versions:
    """What this process runs."""
    slip = Path(__file__).parents[1]
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "CUDA": torch.version.cuda or "none",
        "NCCL": _nccl(),
        "Pillow": pillow(),
        **{name: _installed(name) for name in _DISTRIBUTIONS},
        "code": code_digest([slip, Path(store.__file__).parent]),
        "compiled kernel": "built" if kernel.available() else "none",
    }


def judge_versions(answers: Sequence[Answer[Versions]]) -> list[Finding]:
    """Name what differs, with the nodes on either side."""
    told = [(answer.node, answer.value) for answer in answers if answer.value is not None]
    nodes = tuple(dict.fromkeys(node for node, _ in told))
    found: list[Finding] = []
    for name in dict.fromkeys(name for _, one in told for name in one):
        sides: dict[str, list[str]] = {}
        for node, one in told:
            sides.setdefault(one.get(name, "none"), []).append(node)
        if len(sides) > 1:
            # The fewest first: that is most likely where something is wrong.
            ordered = sorted(sides.items(), key=lambda side: len(side[1]))
            text = "; ".join(f"{value} on {place(where, ())}" for value, where in ordered)
            advice = "install the same on every node, or put the environment where all nodes share it"
            # Where two sides are alike in number, either may be wrong.
            odd = ordered if len(ordered[-1][1]) == len(ordered[-2][1]) else ordered[:-1]
            where = tuple(dict.fromkeys(node for _, some in odd for node in some))
            found.append(Finding(level="BAD", check=CHECK, where=where, found=f"{name}: {text}", advice=advice))
    if found:
        return found
    values = told[0][1]
    text = ", ".join(values[name] if name == "Pillow" else f"{name} {values[name]}" for name in _SHOWN)
    return [Finding(level="OK", check=CHECK, where=nodes, found=f"equal: {text}")]
