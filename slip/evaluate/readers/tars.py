"""Labelled pictures in CLIP_benchmark's WebDataset layout, from a folder or any fsspec URL.

    classnames.txt                            one class name per line; a label is its line number from 0
    zeroshot_classification_templates.txt     one prompt per line, {c} stands for the class name
    test/nshards.txt                          how many shards there are
    test/0.tar, test/1.tar, ...               per picture KEY.jpg (or .jpeg, .png, .webp) and KEY.cls, the label
    train/...                                 the same, where there is a training split

Source: `build_wds_dataset` of clip_benchmark/datasets/builder.py (github.com/LAION-AI/CLIP_benchmark); members of a
sample follow each other and share their key, as in `group_by_keys` of webdataset/tariterators.py.

In: such a folder. Out: a LabelledSet of encoded pictures; decoding is left to the caller. Of tars on a disk the headers
are read (95 µs of a core per picture), and of pictures only a rank's own. Elsewhere every header would be a request of
its own, so tars are read from begin to end, by every rank.
"""

from __future__ import annotations

import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline import store
from pipeline.errors import InputError, ShardError, StoreError
from slip.data.tar_index import split_name
from slip.data.tar_members import TarStream
from slip.evaluate.labelled import LabelledPicture, LabelledSet, Pictures
from slip.evaluate.readers.classes import EXTENSIONS, Names, Wanted, check_label, classes_of, warn_of_empty

_MAX_LABEL_BYTES = 64
_CLASSNAMES, _TEMPLATES, _COUNT = "classnames.txt", "zeroshot_classification_templates.txt", "nshards.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A file in a tar."""

    key: str
    extension: str
    offset: int
    size: int
    content: bytes | None
    """None where it can be read later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """A picture in a tar."""

    key: str
    picture: _Member
    label: int


@dataclass(frozen=True, slots=True)
class _Index:
    """Where the pictures of one tar lie, by their number in it."""

    keys: list[str] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))

    def add(self, sample: _Sample) -> None:
        self.keys.append(sample.key)
        self.offsets.append(sample.picture.offset)
        self.sizes.append(sample.picture.size)
        self.labels.append(sample.label)


def _damaged(url: str, found: object) -> InputError:
    return InputError(f"{url}: not a readable WebDataset shard ({found}); copy it again")


@contextmanager
def _on_disk(url: str) -> Iterator[BinaryIO]:
    """A local file."""
    try:
        with open(store.filesystem(url)[1], "rb") as file:
            yield file
    except OSError as error:
        raise StoreError(f"{url}: cannot read: {error.strerror or error}") from error


def _local_members(url: str) -> Iterator[_Member]:
    """The members of a tar on a disk; of their contents only labels are read."""
    with _on_disk(url) as file:
        # A tar cut between two members reads like a shorter one: the end-of-archive mark is what tells.
        num_bytes = file.seek(0, 2)
        file.seek(max(0, num_bytes - 1024))
        if file.read().strip(b"\0") or not num_bytes:
            raise InputError(f"{url}: the tar has no end ({num_bytes} bytes); it was cut, copy it again")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    name = split_name(info.name) if info.isfile() else None
                    if name is None:
                        continue
                    content = None
                    if name[1] == "cls" and info.size <= _MAX_LABEL_BYTES:
                        file.seek(info.offset_data)  # tarfile goes to the next header by itself
                        content = file.read(info.size)
                    yield _Member(
                        key=name[0], extension=name[1], offset=info.offset_data, size=info.size, content=content
                    )
        except (tarfile.TarError, ValueError) as error:
            raise _damaged(url, error) from error


def _remote_members(url: str) -> Iterator[_Member]:
    """The members of a tar elsewhere, with the contents that are of use."""
    try:
        with store.open_stream(url) as stream:
            tar = TarStream(stream, url)
            for member in tar.members():
                name = split_name(member.name) if member.is_file else None
                if name is None:
                    continue
                content = None
                if name[1] in EXTENSIONS or (name[1] == "cls" and member.size <= _MAX_LABEL_BYTES):
                    content = bytes(tar.read(member)[: member.size])
                yield _Member(key=name[0], extension=name[1], offset=member.offset, size=member.size, content=content)
    except ShardError as error:
        raise InputError(str(error)) from error


def _sample(key: str, members: dict[str, _Member], url: str, num_classes: int) -> _Sample:
    name = f"{url}/{key}"
    picture = next((members[extension] for extension in EXTENSIONS if extension in members), None)
    label = members.get("cls")
    if picture is None or label is None:
        found = sorted(members)
        raise InputError(f"{name}: found {found}, expected a picture (.{', .'.join(EXTENSIONS)}) and .cls")
    text = label.content if label.content is not None else b"..."
    try:
        number = int(text)
    except ValueError:
        raise InputError(f"{name}.cls: found {text[:40]!r}, expected a class number") from None
    return _Sample(key=key, picture=picture, label=check_label(number, num_classes, f"{name}.cls", _CLASSNAMES))


def _samples(url: str, num_classes: int) -> Iterator[_Sample]:
    """The pictures of one tar, in order."""
    key: str | None = None
    group: dict[str, _Member] = {}
    for member in _local_members(url) if store.is_local(url) else _remote_members(url):
        if member.key != key:
            if key is not None:
                yield _sample(key, group, url, num_classes)
            key, group = member.key, {}
        if member.extension in group:
            raise InputError(f"{url}/{key}: two members end in .{member.extension}; keys must differ")
        group[member.extension] = member
    if key is not None:
        yield _sample(key, group, url, num_classes)


class TarPictures:
    """The pictures of one split."""

    def __init__(self, url: str, num_shards: int, classnames: Names, split: str) -> None:
        self._url, self._classnames, self._split = url, classnames, split
        self._shards = [store.join(url, f"{shard}.tar") for shard in range(num_shards)]
        self._indexes: list[_Index] = []

    def _remember(self, indexes: list[_Index]) -> None:
        """Keep what a whole pass over the tars found."""
        counts: Counter[int] = Counter()
        for index in indexes:
            counts.update(index.labels)
        if not counts:
            raise InputError(f"{self._url}: no pictures in its {len(self._shards)} shards")
        if not self._indexes:
            warn_of_empty(
                [counts[label] for label in range(len(self._classnames))], self._classnames, self._split, self._url
            )
        self._indexes = indexes

    def _index(self) -> list[_Index]:
        """Where everything lies; looked up once."""
        if not self._indexes:
            indexes = []
            for url in self._shards:
                indexes.append(_Index())
                for sample in _samples(url, len(self._classnames)):
                    indexes[-1].add(sample)
            self._remember(indexes)
        return self._indexes

    def __len__(self) -> int:
        return sum(len(index.keys) for index in self._index())

    def _picture(self, shard: int, at: int) -> LabelledPicture:
        url, index = self._shards[shard], self._indexes[shard]
        image = store.read_range(url, index.offsets[at], index.sizes[at])
        return LabelledPicture(name=f"{url}/{index.keys[at]}", image=image, label=index.labels[at])

    def __getitem__(self, index: int) -> LabelledPicture:
        at = index
        for shard, found in enumerate(self._index()):
            if 0 <= at < len(found.keys):
                return self._picture(shard, at)
            at -= len(found.keys)
        raise IndexError(index)

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """One rank's pictures with their numbers: those that are `rank` modulo `world_size`."""
        if not store.is_local(self._url):
            yield from self._streamed(rank, world_size)
            return
        number = 0
        for shard, index in enumerate(self._index()):
            for at in range(len(index.keys)):
                if number % world_size == rank:
                    yield number, self._picture(shard, at)
                number += 1

    def _streamed(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """The same from a whole pass, in which it is found out where everything lies as well."""
        number, indexes = 0, []
        for url in self._shards:
            indexes.append(_Index())
            for sample in _samples(url, len(self._classnames)):
                indexes[-1].add(sample)
                if number % world_size == rank:
                    image = sample.picture.content or b""
                    yield number, LabelledPicture(name=f"{url}/{sample.key}", image=image, label=sample.label)
                number += 1
        self._remember(indexes)


def _lines(url: str) -> tuple[str, ...]:
    try:
        text = store.read_bytes(url).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: not UTF-8 text ({error}); write it again as UTF-8") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _templates(url: str) -> tuple[str, ...]:
    templates = _lines(url)
    without = [template for template in templates if "{c}" not in template]
    if not templates or without:
        found = f"the prompt {without[0]!r} has no {{c}}" if without else "no prompts"
        raise InputError(f"{url}: {found}; every line must hold {{c}} where the class name goes")
    return templates


def _num_shards(url: str) -> int:
    count = " ".join(_lines(url))
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{url}: found {count[:40]!r}, expected the number of shards")
    return int(count)


def is_tars(url: str) -> bool:
    """Whether a folder has this layout, as far as a look at it tells."""
    return any(store.exists(store.join(url, *names)) for names in ((_CLASSNAMES,), ("test", _COUNT)))


def open_tars(url: str, wanted: Wanted) -> LabelledSet:
    """Read everything but the tars; a missing file is a StoreError, a malformed one an InputError, naming it."""
    names_url = store.join(url, _CLASSNAMES)
    own = _lines(names_url)
    classnames = classes_of(own, wanted, names_url)
    templates = wanted.templates or _templates(store.join(url, _TEMPLATES))
    splits: dict[str, Pictures] = {}
    for split in ("test", "train"):
        names = wanted.split_names(split)
        folders = [store.join(url, name) for name in names if store.exists(store.join(url, name, _COUNT))]
        if not folders and (split == "test" or split in wanted.splits):
            folders = [store.join(url, names[0])]  # what reading it says names the file that is missing
        if folders:
            num_shards = _num_shards(store.join(folders[0], _COUNT))
            splits[split] = TarPictures(folders[0], num_shards, classnames, split)
    return LabelledSet(name=wanted.name, url=url, classnames=classnames, templates=templates, splits=splits)
