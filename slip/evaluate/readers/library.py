"""Labelled sets that torchvision reads: torchvision:NAME:FOLDER, as torchvision.datasets.NAME(FOLDER) has them there.

In: such a name. Out: a LabelledSet of decoded pictures. Nothing is downloaded. Sets whose classes torchvision neither
names nor orders as published, and those it has no test split of, are not in the table below: read them as folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import InputError
from slip.evaluate.labelled import LabelledPicture, LabelledSet, Pictures
from slip.evaluate.readers.classes import Wanted, check_label, classes_of, part_of

PREFIX = "torchvision:"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """How torchvision is asked for a set."""

    train: dict[str, Any] = field(default_factory=lambda: {"split": "train"})
    test: dict[str, Any] = field(default_factory=lambda: {"split": "test"})
    names: tuple[str, ...] = ()
    """Of its classes by label, where its `classes` do not say; () with no `classes` = as published, by number."""
    first_label: int = 0


_BY_FLAG = _Source(train={"train": True}, test={"train": False})
_SOURCES = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "STL10": _Source(),
    "Food101": _Source(),
    "DTD": _Source(),
    "Flowers102": _Source(),
    "OxfordIIITPet": _Source(train={"split": "trainval"}),
    "FGVCAircraft": _Source(train={"split": "trainval"}),
    "StanfordCars": _Source(),
    "GTSRB": _Source(),
    "Country211": _Source(),
    "PCAM": _Source(),
    "RenderedSST2": _Source(),
    "FER2013": _Source(names=("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")),
    "CLEVRClassification": _Source(
        test={"split": "val"}, names=("3", "4", "5", "6", "7", "8", "9", "10"), first_label=3
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPictures:
    """The pictures of one split."""

    data: Any
    """torchvision's data set."""
    where: str
    num_classes: int
    first_label: int

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> LabelledPicture:
        image, label = self.data[index]
        name = f"{self.where}#{index}"
        label = check_label(int(label) - self.first_label, self.num_classes, name, self.where)
        return LabelledPicture(name=name, image=np.array(image.convert("RGB")), label=label)

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """One rank's pictures with their numbers."""
        for number in part_of(len(self), rank, world_size):
            yield number, self[number]


def _opened(name: str, folder: str, options: dict[str, Any], url: str) -> Any:
    """torchvision's data set of one split."""
    from slip.torchvision_compat import import_torchvision

    import_torchvision()
    from torchvision import datasets

    try:
        return getattr(datasets, name)(folder, **options)
    except (RuntimeError, OSError, ImportError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{url}: torchvision cannot read it there ({error}); fetch it once with "
            f'python -c "from torchvision.datasets import {name}; {name}({folder!r}, download=True)", or give the '
            "folder that has it"
        ) from error


def open_library(url: str, wanted: Wanted) -> LabelledSet:
    """Open a set torchvision:NAME:FOLDER; both splits are there, or it is an InputError."""
    name, colon, folder = url.removeprefix(PREFIX).partition(":")
    source = _SOURCES.get(name)
    if source is None or not colon or not folder:
        raise InputError(f"{url}: expected torchvision:NAME:FOLDER with one of these names: {', '.join(_SOURCES)}")
    options = {split: {"split": there} for split, there in wanted.splits.items()}
    data = {
        split: _opened(name, folder, options.get(split, usual), url)
        for split, usual in (("train", source.train), ("test", source.test))
    }
    own = source.names or tuple(map(str, getattr(data["test"], "classes", ())))
    if not own and not wanted.classnames:
        raise InputError(f"{url}: torchvision does not name its classes; put it in the catalogue under its name")
    classnames = classes_of(own, wanted, url) if own else wanted.classnames
    splits: dict[str, Pictures] = {
        split: LibraryPictures(
            data=found, where=f"{url} {split}", num_classes=len(classnames), first_label=source.first_label
        )
        for split, found in data.items()
    }
    return LabelledSet(name=wanted.name, url=url, classnames=classnames, templates=wanted.templates, splits=splits)
