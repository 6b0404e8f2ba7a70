"""Labelled pictures in folders, one per class: ROOT/{train,test}/CLASS/..., on a disk or under any fsspec URL.

    test/red/1.jpg, test/red/more/2.png     pictures of class "red", however deep they lie
    test/green/1.webp

The test split may be called val, validation or valid. Classes are numbered in the order of their folders' names, over
all splits; names that are numbers are ordered as numbers. Files that begin with a dot and such that are no pictures are
passed over; a picture in a format that is not read is an error, for a set without it is another set.

In: such a folder. Out: a LabelledSet of encoded pictures; decoding is left to the caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import store
from pipeline.errors import InputError, StoreError
from slip.evaluate.labelled import LabelledPicture, LabelledSet, Pictures
from slip.evaluate.readers.classes import EXTENSIONS, SPLITS, Wanted, classes_of, in_order, part_of, warn_of_empty

_OTHER_PICTURES = frozenset(("bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2", "avif", "heic", "jfif"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPictures:
    """The pictures of one split."""

    url: str
    """Of the split."""
    paths: tuple[str, ...]
    """Below it, sorted."""
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> LabelledPicture:
        url = store.join(self.url, self.paths[index])
        return LabelledPicture(name=url, image=store.read_bytes(url), label=self.labels[index])

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """One rank's pictures with their numbers."""
        for number in part_of(len(self), rank, world_size):
            yield number, self[number]


def _refuse(error: OSError) -> None:
    raise StoreError(f"{error.filename}: cannot list: {error.strerror}") from error


def _below(url: str) -> tuple[set[str], list[str]]:
    """The folders in a folder, and all files however deep below it, as paths from there."""
    names = store.list_names(url)  # says clearly what is wrong with a place that cannot be listed
    filesystem, path = store.filesystem(url)
    if store.is_local(url):
        folders = {name for name in names if os.path.isdir(os.path.join(path, name))}
        start = len(path.rstrip("/")) + 1
        files = [
            os.path.join(where, name)[start:]
            for where, _, names in os.walk(path, onerror=_refuse, followlinks=True)
            for name in names
        ]
        return folders, files
    start = len(path.strip("/")) + 1
    files = [str(found).lstrip("/")[start:] for found in filesystem.find(path)]
    return {name.partition("/")[0] for name in files if "/" in name}, files


def _pictures(files: list[str], url: str) -> list[str]:
    """The paths that are pictures of a class, sorted."""
    kept = []
    for path in files:
        extension = path.rpartition(".")[2].lower()
        if "/" not in path or any(part.startswith(".") for part in path.split("/")):
            continue
        if extension in _OTHER_PICTURES:
            raise InputError(
                f"{store.join(url, path)}: pictures of this kind are not read, only .{', .'.join(EXTENSIONS)}; convert "
                "it, or take it out of the data set"
            )
        if extension in EXTENSIONS:
            kept.append(path)
    return sorted(kept)


def find_split(url: str, split: str, wanted: Wanted) -> str | None:
    """The folder of a split, None when there is none."""
    candidates = (store.join(url, name) for name in wanted.split_names(split))
    return next((candidate for candidate in candidates if store.exists(candidate)), None)


def open_folders(url: str, wanted: Wanted) -> LabelledSet:
    """List everything; no picture is read."""
    places = {split: place for split in SPLITS if (place := find_split(url, split, wanted)) is not None}
    if "test" not in places:
        looked = ", ".join(f"{name}/" for name in wanted.split_names("test"))
        raise InputError(f"{url}: no pictures to test on: looked for {looked} with a folder per class in it")
    found = {split: _below(place) for split, place in places.items()}
    own = in_order(name for folders, _ in found.values() for name in folders if not name.startswith("."))
    if not own:
        raise InputError(f"{places['test']}: no folders in it; expected one per class with its pictures")
    classnames = classes_of(own, wanted, url)
    labels = {name: label for label, name in enumerate(own)}
    splits: dict[str, Pictures] = {}
    for split, (_, files) in found.items():
        paths = _pictures(files, places[split])
        numbers = tuple(labels[path.partition("/")[0]] for path in paths)
        if not paths:
            raise InputError(f"{places[split]}: no pictures (.{', .'.join(EXTENSIONS)}) in its {len(own)} folders")
        counts = [0] * len(own)
        for number in numbers:
            counts[number] += 1
        warn_of_empty(counts, classnames, split, url)
        splits[split] = FolderPictures(url=places[split], paths=tuple(paths), labels=numbers)
    return LabelledSet(name=wanted.name, url=url, classnames=classnames, templates=wanted.templates, splits=splits)
