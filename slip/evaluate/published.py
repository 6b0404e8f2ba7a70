"""The numbers SLIP was published with, to stand beside ours; imports no torch.

ImageNet top-1 accuracy of N. Mu, A. Kirillov, D. Wagner, S. Xie, "SLIP: Self-supervision meets Language-Image
Pre-training", arXiv 2112.12750: tables of the paper and github.com/facebookresearch/SLIP, README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SOURCE = "arXiv 2112.12750"
_SET = "imagenet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published model."""

    objective: str
    """clip, simclr or slip (with SimCLR)."""
    tower: str
    data: str
    epochs: int
    zeroshot: float | None
    """Per cent, as the others; None where there is no text tower."""
    linear: float
    finetune: float

    def of(self, protocol: str) -> float | None:
        """The number of a protocol as scores call it (linear-sgd ...), None where none was published."""
        numbers = {"zeroshot": self.zeroshot, "linear": self.linear, "finetune": self.finetune}
        return numbers.get(protocol.partition("-")[0])

    def words(self) -> str:
        """ "SLIP vitb16, YFCC15M, 25 epochs"."""
        name = {"clip": "CLIP", "simclr": "SimCLR", "slip": "SLIP"}[self.objective]
        return f"{name} {self.tower}, {self.data}, {self.epochs} epochs"


def _row(
    objective: str, tower: str, data: str, epochs: int, zeroshot: float | None, linear: float, finetune: float
) -> Published:
    return Published(
        objective=objective,
        tower=tower,
        data=data,
        epochs=epochs,
        zeroshot=zeroshot,
        linear=linear,
        finetune=finetune,
    )


PUBLISHED = (
    _row("clip", "vits16", "YFCC15M", 25, 32.7, 59.3, 78.2),
    _row("simclr", "vits16", "YFCC15M", 25, None, 58.1, 79.9),
    _row("slip", "vits16", "YFCC15M", 25, 38.3, 66.4, 80.3),
    _row("slip", "vits16", "YFCC15M", 50, 39.3, 67.6, 80.7),
    _row("slip", "vits16", "YFCC15M", 100, 39.5, 68.3, 80.7),
    _row("clip", "vitb16", "YFCC15M", 25, 37.6, 66.5, 80.5),
    _row("simclr", "vitb16", "YFCC15M", 25, None, 64.0, 82.5),
    _row("slip", "vitb16", "YFCC15M", 25, 42.8, 72.1, 82.6),
    _row("slip", "vitb16", "YFCC15M", 50, 44.1, 73.0, 82.9),
    _row("slip", "vitb16", "YFCC15M", 100, 45.0, 73.6, 83.4),
    _row("clip", "vitl16", "YFCC15M", 25, 40.4, 70.5, 81.0),
    _row("simclr", "vitl16", "YFCC15M", 25, None, 66.7, 84.0),
    _row("slip", "vitl16", "YFCC15M", 25, 46.2, 76.0, 84.2),
    _row("slip", "vitl16", "YFCC15M", 50, 47.4, 75.8, 84.7),
    _row("slip", "vitl16", "YFCC15M", 100, 47.9, 75.1, 84.8),
    _row("clip", "vitb16", "CC3M", 40, 17.1, 53.3, 79.5),
    _row("slip", "vitb16", "CC3M", 40, 23.0, 65.4, 81.4),
    _row("clip", "vitb16", "CC12M", 35, 36.5, 69.0, 82.1),
    _row("slip", "vitb16", "CC12M", 35, 40.7, 73.7, 83.1),
)


def published_rows(objective: str, tower: str) -> tuple[Published, ...]:
    """All published models of an objective and a tower, in the order of the tables."""
    return tuple(row for row in PUBLISHED if (row.objective, row.tower) == (objective, tower))


def data_of(manifests: Sequence[str]) -> str:
    """Which of the published data sets a run's manifests name; YFCC15M where they name none."""
    named = " ".join(manifests).lower()
    return next((data for data in ("CC12M", "CC3M") if data.lower() in named), "YFCC15M")


def beside(objective: str, tower: str, epochs: float | None, data: str = "YFCC15M") -> Published | None:
    """The published model to compare one of ours with: the same on that data, trained for as long or next to it.

    Without `epochs` the shortest.
    """
    rows = [row for row in published_rows(objective, tower) if row.data == data]
    return min(rows, key=lambda row: (abs(row.epochs - (epochs or 25)), row.epochs), default=None)


def number_for(published: Published | None, name: str, protocol: str) -> float | None:
    """Its number (per cent) for a set and a protocol, None where there is none."""
    return published.of(protocol) if published is not None and name == _SET else None
