"""Labelled pictures in Parquet: one file, or a folder of files, on a disk or under any fsspec URL.

    image (or img, jpg, jpeg, png, webp)    the encoded picture: bytes, or a struct with a field "bytes"
    label (or labels, fine_label, cls)      the class: a number from 0, or a text
    split                                   train, test ...; without this column a file's name says it (test-0.parquet),
                                            and what says nothing is tested on

A struct with bytes, and the names of numbered classes in the file's metadata, are Hugging Face's form (datasets.Image
and datasets.ClassLabel of github.com/huggingface/datasets, src/datasets/features). Classes that are texts are numbered
in their order, numbers as numbers.

In: such files. Out: a LabelledSet of encoded pictures; decoding is left to the caller. Labels are read at once; who
takes pictures in any order wants small row groups, for they are read whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import InputError, StoreError
from slip.evaluate.labelled import LabelledPicture, LabelledSet, Pictures
from slip.evaluate.readers.classes import SPLITS, Names, Wanted, classes_of, in_order, key, part_of, warn_of_empty

_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
_LABELS = ("label", "labels", "fine_label", "cls")
_BATCH_ROWS = 512
_KEPT_BYTES = 1 << 30
"""Of row groups kept for those who take pictures in any order."""


class _Ranges(io.RawIOBase):
    """A file as pyarrow wants it, from any store: ranges read exactly, again where the store falters."""

    def __init__(self, url: str) -> None:
        super().__init__()
        num_bytes = store.size(url)
        if num_bytes is None:
            raise StoreError(f"{url}: no such file, or its server does not say how long it is")
        self._file, self._num_bytes, self._at = store.RangedFile(url), num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, counted from the beginning, from here or from the end."""
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence] + offset
        return self._at

    def readinto(self, target: Any) -> int:
        """Fill a buffer, or as much of it as there is."""
        length = max(0, min(len(target), self._num_bytes - self._at))
        self._file.read_into(self._at, memoryview(target).cast("B")[:length])
        self._at += length
        return length


@contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; InputError when it is none."""
    try:
        with pq.ParquetFile(_Ranges(url)) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise InputError(f"{url}: not a readable Parquet file ({error}); copy it again") from error


def _column(names: Sequence[str], accepted: Sequence[str], what: str, url: str) -> str:
    """The first of the accepted columns that is there."""
    found = next((name for name in accepted if name in names), None)
    if found is None:
        raise InputError(
            f"{url}: no column with the {what}: looked for {', '.join(accepted)}; found {', '.join(names)}"
        )
    return found


class _File:
    """One file: its columns, labels and splits; of its pictures, where they are."""

    def __init__(self, url: str) -> None:
        self.url = url
        with _opened(url) as file:
            names = file.schema_arrow.names
            self.image = _column(names, _IMAGES, "pictures", url)
            label = _column(names, _LABELS, "labels", url)
            kind = file.schema_arrow.field(self.image).type
            if pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}:
                self.image = f"{self.image}.bytes"
            elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise InputError(f"{url}: column {self.image} holds {kind}, expected encoded pictures (bytes)")
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self.group_starts: npt.NDArray[np.int64] = np.cumsum([0, *groups], dtype=np.int64)
            read = [label, "split"] if "split" in names else [label]
            table = file.read(columns=read)
            self.labels: list[int | str | None] = table.column(label).to_pylist()
            self.splits: list[str | None] = table.column("split").to_pylist() if "split" in names else []
            self.names = _class_names(file.schema_arrow.metadata or {}, label)
        words = key(url.rpartition("/")[2].removesuffix(".parquet")).split()
        self._named = next((name for names in SPLITS.values() for name in names if name in words), "")
        kinds = {type(value) for value in self.labels}
        if not kinds <= {int} and not kinds <= {str}:
            row = next(row for row, value in enumerate(self.labels) if not isinstance(value, (int, str)))
            raise InputError(f"{url}#{row}: its {label} is {self.labels[row]!r}, expected a class number or a text")

    def split_of(self, row: int) -> str:
        """What the column says of a row's split, else the file's name; "" when nothing does."""
        return self.splits[row] or "" if self.splits else self._named

    def group(self, group: int) -> list[bytes | None]:
        """The pictures of one row group."""
        with _opened(self.url) as file:
            return self._plain(file.read_row_group(group, columns=[self.image]))

    def batches(self, first: int, last: int) -> Iterator[tuple[int, list[bytes | None]]]:
        """The pictures of the row groups that hold rows `first` to `last`, as they come, with the first one's row."""
        groups = range(self.group_of(first), self.group_of(last) + 1)
        row = int(self.group_starts[groups[0]])
        with _opened(self.url) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(groups), columns=[self.image]):
                pictures = self._plain(pa.Table.from_batches([batch]))
                yield row, pictures
                row += len(pictures)

    def group_of(self, row: int) -> int:
        """In which row group a row is."""
        return int(np.searchsorted(self.group_starts, row, side="right")) - 1

    def _plain(self, table: pa.Table) -> list[bytes | None]:
        column = table.column(0)
        if pa.types.is_struct(column.type):
            column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks], pa.binary())
        return cast(list[bytes | None], column.to_pylist())


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...]:
    """The names of numbered classes in Hugging Face's metadata; () when there are none."""
    try:
        about = json.loads(metadata[b"huggingface"])
        return tuple(str(name) for name in about["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


class ParquetPictures:
    """The pictures of one split."""

    def __init__(self, files: Sequence[_File], rows: Sequence[tuple[int, int]], labels: Sequence[int]) -> None:
        self._files, self._labels = files, np.asarray(labels, np.int64)
        self._rows = np.asarray(rows, np.int64).reshape(-1, 2)  # file, row in it
        self._kept: dict[tuple[int, int], list[bytes | None]] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def _picture(self, number: int, image: bytes | None) -> LabelledPicture:
        file, row = self._rows[number]
        name = f"{self._files[file].url}#{row}"
        if image is None:
            raise InputError(f"{name}: no picture in column {self._files[file].image}; take the row out")
        return LabelledPicture(name=name, image=image, label=int(self._labels[number]))

    def __getitem__(self, index: int) -> LabelledPicture:
        number, row = (int(value) for value in self._rows[index])
        file = self._files[number]
        place = number, file.group_of(row)
        pictures = self._kept.get(place)
        if pictures is None:
            pictures = file.group(place[1])
            kept = dict(self._kept) | {place: pictures}
            while len(kept) > 1 and sum(_num_bytes(group) for group in kept.values()) > _KEPT_BYTES:
                del kept[next(iter(kept))]
            self._kept = kept  # replaced, never changed: other threads may be looking
        return self._picture(index, pictures[row - int(file.group_starts[place[1]])])

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        """One rank's pictures with their numbers."""
        numbers = np.asarray(part_of(len(self), rank, world_size), np.int64)
        for at, file in enumerate(self._files):
            here = numbers[self._rows[numbers, 0] == at]
            if not len(here):
                continue
            rows = self._rows[here, 1]
            for first, pictures in file.batches(int(rows[0]), int(rows[-1])):
                begin, end = np.searchsorted(rows, (first, first + len(pictures)))
                for number, row in zip(here[begin:end].tolist(), rows[begin:end].tolist(), strict=True):
                    yield number, self._picture(number, pictures[row - first])


def _num_bytes(pictures: list[bytes | None]) -> int:
    return sum(len(picture or b"") for picture in pictures)


def _classes(files: Sequence[_File], wanted: Wanted, url: str) -> tuple[Names, dict[Any, int]]:
    """The names of each class, and which class each label of the files is."""
    values = {value for file in files for value in file.labels}
    numbered = [value for value in values if isinstance(value, int)]
    if numbered:
        own = next((file.names for file in files if file.names), ())
        if not own:
            if not wanted.classnames:
                own = tuple(map(str, range(max(numbered) + 1)))
            else:
                return wanted.classnames, {label: label for label in range(len(wanted.classnames))}
        return classes_of(own, wanted, url), {label: label for label in range(len(own))}
    texts = in_order(map(str, values))
    named = {key(name): place for place, names in enumerate(wanted.classnames) for name in names}
    places = {text: named.get(key(text)) for text in texts}
    # Texts that are class names say themselves which class they are, also where not every class has a picture.
    if sum(place is not None for place in places.values()) * 2 > len(texts):
        return wanted.classnames, {text: place for text, place in places.items() if place is not None}
    return classes_of(texts, wanted, url), {text: label for label, text in enumerate(texts)}


def _files(url: str) -> list[str]:
    if url.endswith(".parquet"):
        return [url]
    return [store.join(url, name) for name in store.list_names(url) if name.endswith(".parquet")]


def _pictures_of(
    split: str, files: Sequence[_File], numbers: Mapping[Any, int], classnames: Names, url: str, set_name: str
) -> ParquetPictures:
    """The rows that say they are of this split."""
    rows, labels = [], []
    for at, file in enumerate(files):
        for row, value in enumerate(file.labels):
            if file.split_of(row) != split:
                continue
            if value not in numbers:
                raise InputError(
                    f"{file.url}#{row}: label {value!r}, expected one of the {len(classnames)} classes of "
                    f"{set_name}: {classnames[0][0]!r}, {classnames[1][0]!r} ..."
                )
            rows.append((at, row))
            labels.append(numbers[value])
    counts = np.bincount(labels, minlength=len(classnames)).tolist()
    warn_of_empty(counts, classnames, split or "test", url)
    return ParquetPictures(files, rows, labels)


def open_parquet(url: str, wanted: Wanted) -> LabelledSet:
    """Read labels and splits; no picture is read."""
    files = [_File(one) for one in _files(url)]
    if not any(file.labels for file in files):
        raise InputError(f"{url}: no rows in {len(files)} Parquet files")
    classnames, numbers = _classes(files, wanted, url)
    said = {file.split_of(row) for file in files for row in range(len(file.labels))}
    splits: dict[str, Pictures] = {}
    for split in SPLITS:
        names = (*wanted.split_names(split), "") if split == "test" else wanted.split_names(split)
        name = next((name for name in names if name in said), None)
        if name is not None:
            splits[split] = _pictures_of(name, files, numbers, classnames, url, wanted.name)
    if "test" not in splits:
        looked = ", ".join(wanted.split_names("test"))
        raise InputError(f"{url}: no rows to test on: looked for split {looked}; found {', '.join(sorted(said))}")
    return LabelledSet(name=wanted.name, url=url, classnames=classnames, templates=wanted.templates, splits=splits)
