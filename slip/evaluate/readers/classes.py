"""What every reader of labelled sets does with classes: in which order they come, what they are called, who has none.

In: the names that the data itself has (folders, lines, texts), and what is wanted: the split names, class names and
prompts of the catalogue or of a publication. Out: the names of each class in the order of the data's own labels, and a
message where the two do not fit together. Reading is left to the readers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import InputError

logger = logging.getLogger(__name__)

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Of encoded pictures, in lower case; the first of these that a sample has is its picture."""
SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation", "valid")}
"""Under which names a split is looked for, where nothing else is wanted; the first that is there is taken."""

Names = tuple[tuple[str, ...], ...]
"""The names of each class."""

_APART = re.compile(r"[\W_]+")
_CODE = re.compile(r"n?\d+")  # numbers, and WordNet's as ImageNet has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is known of a set before it is read."""

    name: str
    classnames: Names = ()
    """() = the data's own."""
    in_label_order: bool = False
    """Whether class k of `classnames` is label k whatever the data calls it."""
    templates: tuple[str, ...] = ()
    splits: dict[str, str] = field(default_factory=dict)
    """What "train" and "test" are called there; where nothing is said, one of `SPLITS`."""

    def split_names(self, split: str) -> tuple[str, ...]:
        """Where to look for a split: ("val",) when the catalogue says so, else ("test", "val", ...)."""
        return (self.splits[split],) if split in self.splits else SPLITS[split]


def key(name: str) -> str:
    """A class name as it is compared: "Apartment_Building/outdoor" -> "apartment building outdoor"."""
    return _APART.sub(" ", name.casefold()).strip()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, sorted; numbers as numbers: {"10", "9"} -> ("9", "10")."""
    unique = set(names)
    if all(name.isdecimal() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def _places(wanted: Names) -> dict[str, int]:
    """Where each name stands; one that several classes have tells nothing and is left out."""
    places: dict[str, int] = {}
    twice = set()
    for place, names in enumerate(wanted):
        for name in {key(name) for name in names}:
            if name in places:
                twice.add(name)
            places[name] = place
    return {name: place for name, place in places.items() if name not in twice}


def classes_of(own: Sequence[str], wanted: Wanted, url: str) -> Names:
    """The names of each class, in the order of the data's labels.

    Wanted names go to the data's classes by name where all have the same names, in whatever order; else one by one in
    their order, as published sets of folders are read, unless a name that both have stands elsewhere. CLIP_benchmark
    has the four classes of kitti_distance and the 102 of caltech101 in another order than they were published in.

    Args:
        own: what the data calls its classes, by label.
    """
    if len(own) < 2 and not wanted.classnames:
        raise InputError(f"{url}: {len(own)} classes; at least 2 are needed")
    if not wanted.classnames:
        return tuple((name,) for name in own)
    if len(own) != len(wanted.classnames):
        raise InputError(
            f"{url}: {len(own)} classes, but {wanted.name} has {len(wanted.classnames)} class names; give the right "
            "folder, or its own classnames in the catalogue"
        )
    if wanted.in_label_order:
        return wanted.classnames
    places = _places(wanted.classnames)
    found = [places.get(key(name)) for name in own]
    if len({place for place in found if place is not None}) == len(own):
        return tuple(wanted.classnames[place] for place in found if place is not None)
    for label, (name, place) in enumerate(zip(own, found, strict=True)):
        if place is not None and place != label:
            raise InputError(
                f"{url}: its class {label} is {name!r}, which is class {place} of the names known for {wanted.name}, "
                f"where {label} is {wanted.classnames[label][0]!r}; give classnames in the order of the data's labels "
                "in the catalogue"
            )
    if all(place is None for place in found) and not all(map(_CODE.fullmatch, own)):
        shown = ", ".join(f"{name!r} is {names[0]!r}" for name, names in zip(own[:3], wanted.classnames, strict=False))
        logger.warning(
            "%s: its classes have other names than those known for %s and are taken in their order: %s ...; give "
            "classnames in the catalogue if that is wrong",
            *(url, wanted.name, shown),
        )
    return wanted.classnames


def check_label(label: int, num_classes: int, name: str, source: str) -> int:
    """The label; InputError naming the picture when there is no such class. `source` is where the classes are from."""
    if not 0 <= label < num_classes:
        raise InputError(f"{name}: label {label}, expected 0 to {num_classes - 1}: {source} has {num_classes} classes")
    return label


def warn_of_empty(counts: Sequence[int], classnames: Names, split: str, url: str) -> None:
    """Say which classes have no picture in a split."""
    empty = [names[0] for names, count in zip(classnames, counts, strict=True) if not count]
    if empty and len(empty) < len(counts):
        shown = ", ".join(map(repr, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        logger.warning(
            "%s: no picture of %s in its %s split (%d of %d classes)", url, shown, split, len(empty), len(counts)
        )


def part_of(length: int, rank: int, world_size: int) -> range:
    """The numbers that are one rank's, next to each other: (10, 1, 3) -> range(3, 6)."""
    return range(length * rank // world_size, length * (rank + 1) // world_size)
