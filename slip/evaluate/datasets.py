"""Labelled pictures in CLIP_benchmark's WebDataset layout, from a folder or any fsspec URL.

    classnames.txt                            one class name per line; a label is its line number from 0
    zeroshot_classification_templates.txt     one prompt per line, {c} stands for the class name
    test/nshards.txt                          how many shards there are
    test/0.tar, test/1.tar, ...               per picture KEY.jpg (or .jpeg, .png, .webp) and KEY.cls, the label

In: such a folder. Out: class names, prompts, and encoded pictures with labels; decoding is left to the caller.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import store
from pipeline.errors import ConfigError, InputError

EXTENSIONS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """A data set for zero-shot classification."""

    url: str
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    num_shards: int

    def prompts(self, classname: str) -> list[str]:
        """All prompts of one class: "a photo of a {c}." -> "a photo of a boat."."""
        return [template.replace("{c}", classname) for template in self.templates]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPicture:
    """One encoded picture and its class."""

    name: str
    """Shard and key, for messages."""
    image: bytes
    label: int


def _lines(url: str) -> tuple[str, ...]:
    try:
        text = store.read_bytes(url).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: not UTF-8 text ({error}); write it again as UTF-8") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def open_labelled_set(url: str) -> LabelledSet:
    """Read everything but the pictures; a missing file is a StoreError, a malformed one an InputError, naming it."""
    classnames = _lines(store.join(url, "classnames.txt"))
    if len(classnames) < 2:
        raise InputError(f"{store.join(url, 'classnames.txt')}: {len(classnames)} class names; at least 2 are needed")
    templates_url = store.join(url, "zeroshot_classification_templates.txt")
    templates = _lines(templates_url)
    without = [template for template in templates if "{c}" not in template]
    if not templates or without:
        found = f"the prompt {without[0]!r} has no {{c}}" if without else "no prompts"
        raise InputError(f"{templates_url}: {found}; every line must hold {{c}} where the class name goes")
    count_url = store.join(url, "test", "nshards.txt")
    count = " ".join(_lines(count_url))
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{count_url}: found {count[:40]!r}, expected the number of shards")
    return LabelledSet(url=url, classnames=classnames, templates=templates, num_shards=int(count))


def _label(text: bytes, name: str, num_classes: int) -> int:
    try:
        label = int(text)
    except ValueError:
        raise InputError(f"{name}.cls: found {text[:40]!r}, expected a class number") from None
    if not 0 <= label < num_classes:
        raise InputError(
            f"{name}.cls: label {label}, expected 0 to {num_classes - 1}: classnames.txt has {num_classes} classes"
        )
    return label


def _read_shard(url: str, num_classes: int) -> Iterator[LabelledPicture]:
    try:
        from webdataset.tariterators import group_by_keys, tar_file_iterator
    except ImportError as error:
        raise ConfigError(
            "zero-shot evaluation needs the webdataset package: pip install 'yfcc15m-slip[eval]'"
        ) from error

    data = store.read_bytes(url)
    # A tar cut between two members reads like a shorter one: the end-of-archive mark is what tells.
    if data[-1024:].strip(b"\0"):
        raise InputError(f"{url}: the tar has no end ({len(data)} bytes); it was cut, copy it again")
    try:
        for sample in group_by_keys({"__url__": url} | member for member in tar_file_iterator(io.BytesIO(data))):
            name = f"{url}/{sample['__key__']}"
            image = next((sample[extension] for extension in EXTENSIONS if extension in sample), None)
            if image is None or "cls" not in sample:
                found = sorted(key for key in sample if not key.startswith("__"))
                raise InputError(f"{name}: found {found}, expected a picture (.{', .'.join(EXTENSIONS)}) and .cls")
            yield LabelledPicture(name=name, image=image, label=_label(sample["cls"], name, num_classes))
    except (tarfile.TarError, ValueError) as error:
        raise InputError(f"{url}: not a readable WebDataset shard ({error}); copy it again") from error


def read_pictures(labelled: LabelledSet, *, rank: int, world_size: int) -> Iterator[LabelledPicture]:
    """One rank's pictures: those whose number in the data set is `rank` modulo `world_size`."""
    number = 0
    for shard in range(labelled.num_shards):
        url = store.join(labelled.url, "test", f"{shard}.tar")
        for picture in _read_shard(url, len(labelled.classnames)):
            if number % world_size == rank:
                yield picture
            number += 1
