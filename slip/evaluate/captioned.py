"""Pictures with several captions each, for retrieval, from a folder, a file or any fsspec URL.

    dataset.json         Karpathy's splits: {"images": [{"filepath", "filename", "split", "sentences": [{"raw"}]}]}, or
                         a list of {"path", "sentences" or "captions": [...]}; pictures lie beside the file, or in
                         images/ beside it. Taken are those whose split is "test", or that have none.
    00000.tar ...        WebDataset: KEY.jpg (.jpeg, .png, .webp) and KEY.txt with one caption a line
    part.parquet ...     columns image (bytes, or a struct with bytes) and captions (a list, or one text)

Source of the first: A. Karpathy, cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip).

In: such a place; which of the three it is, is found out. Out: all captions, and pictures that are read when they are
asked for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import InputError, ShardError
from slip.data.tar_index import split_name
from slip.data.tar_members import Member, TarStream
from slip.evaluate.labelled import LabelledPicture, Pictures

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_IMAGE_COLUMNS = ("image", "jpg", "bytes")
_CAPTION_COLUMNS = ("captions", "caption", "sentences", "txt", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedSet:
    """Pictures and what was said of them."""

    name: str
    url: str
    pictures: Pictures
    """A picture's label is its number."""
    captions: tuple[tuple[str, ...], ...]
    """Of each picture, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where one picture lies."""

    url: str
    name: str
    offset: int = 0
    size: int | None = None
    """None: the whole file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Pictures that are files, or parts of files."""

    places: tuple[_Place, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> LabelledPicture:
        place = self.places[index]
        if place.size is None:
            image = store.read_bytes(place.url)
        else:
            image = store.read_range(place.url, place.offset, place.size)
        return LabelledPicture(name=place.name, image=image, label=index)

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        for number in range(rank, len(self), world_size):
            yield number, self[number]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Pictures in a column of Parquet files, held in memory as they are encoded."""

    column: pa.ChunkedArray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> LabelledPicture:
        return LabelledPicture(name=self.names[index], image=self.column[index].as_py() or b"", label=index)

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, LabelledPicture]]:
        for number in range(rank, len(self), world_size):
            yield number, self[number]


def _checked(found: Sequence[Any], name: str) -> tuple[str, ...]:
    """Captions as they are used; InputError naming the picture where there is none."""
    captions = tuple(" ".join(text.split()) for text in found if isinstance(text, str))
    captions = tuple(text for text in captions if text)
    if not captions:
        raise InputError(f"{name}: no caption; write one, or take the picture out of the data set")
    return captions


def _open_json(url: str) -> tuple[Pictures, list[tuple[str, ...]]]:
    try:
        content = json.loads(store.read_bytes(url))
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error}); copy it again") from error
    rows = content.get("images") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{url}: expected {{"images": [...]}} or a list, each with a path and sentences')
    rows = [row for row in rows if row.get("split", "test") == "test"]
    folder = store.parent(url)
    places: list[_Place] = []
    captions: list[tuple[str, ...]] = []
    for number, row in enumerate(rows):
        path = row.get("path") or "/".join(filter(None, (row.get("filepath"), row.get("filename"))))
        said = row.get("sentences", row.get("captions"))
        if not isinstance(path, str) or not path or not isinstance(said, list):
            raise InputError(f"{url}: picture {number} has {sorted(row)}; expected a path (or filename) and sentences")
        if number == 0 and not store.exists(store.join(folder, path)):
            folder = store.join(folder, "images")
        place = store.join(folder, path)
        places.append(_Place(url=place, name=place))
        captions.append(_checked([one.get("raw") if isinstance(one, dict) else one for one in said], place))
    return _Files(places=tuple(places)), captions


def _open_tars(urls: Sequence[str]) -> tuple[Pictures, list[tuple[str, ...]]]:
    places: list[_Place] = []
    captions: list[tuple[str, ...]] = []

    def finish(url: str, key: str, picture: Member | None, text: str | None) -> None:
        name = f"{url}/{key}"
        if picture is None or text is None:
            raise InputError(f"{name}: expected a picture (.{', .'.join(EXTENSIONS)}) and .txt, one of them is missing")
        places.append(_Place(url=url, name=name, offset=picture.offset, size=picture.size))
        captions.append(_checked(text.splitlines(), name))

    for url in urls:
        try:
            with store.open_stream(url) as stream:
                tar = TarStream(stream, url)
                key: str | None = None
                picture: Member | None = None
                text: str | None = None
                for member in tar.members():
                    name = split_name(member.name) if member.is_file else None
                    if name is None:
                        continue
                    if name[0] != key:
                        if key is not None:
                            finish(url, key, picture, text)
                        key, picture, text = name[0], None, None
                    if name[1] in EXTENSIONS:
                        picture = member
                    elif name[1] == "txt":
                        text = bytes(tar.read(member)[: member.size]).decode("utf-8", "replace")
                if key is not None:
                    finish(url, key, picture, text)
        except ShardError as error:
            raise InputError(str(error)) from error
    return _Files(places=tuple(places)), captions


def _column(names: Sequence[str], wanted: Sequence[str], url: str) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise InputError(f"{url}: has columns {', '.join(names)}; expected one of {', '.join(wanted)}")
    return found


def _open_parquet(urls: Sequence[str]) -> tuple[Pictures, list[tuple[str, ...]]]:
    chunks: list[pa.Array] = []
    names: list[str] = []
    captions: list[tuple[str, ...]] = []
    for url in urls:
        try:
            table = pq.read_table(io.BytesIO(store.read_bytes(url)))
        except pa.ArrowException as error:
            raise InputError(f"{url}: not a readable Parquet file ({error}); copy it again") from error
        image = table[_column(table.column_names, _IMAGE_COLUMNS, url)].combine_chunks()
        said = table[_column(table.column_names, _CAPTION_COLUMNS, url)].to_pylist()
        if pa.types.is_struct(image.type):  # as Hugging Face's datasets write pictures
            image = image.field("bytes")
        if not pa.types.is_binary(image.type) and not pa.types.is_large_binary(image.type):
            raise InputError(f"{url}: pictures are of type {image.type}; expected bytes")
        chunks.append(image.cast(pa.large_binary()))
        first = len(names)
        names += [f"{url}, row {row}" for row in range(len(said))]
        captions += [
            _checked(one if isinstance(one, list) else [one], names[first + row]) for row, one in enumerate(said)
        ]
    return _Table(column=pa.chunked_array(chunks), names=tuple(names)), captions


def _files_in(url: str) -> dict[str, list[str]]:
    """The files that may hold a set, by extension: of the folder's part "test" where it has one, else of itself."""
    if url.rpartition(".")[2] in ("json", "tar", "parquet"):
        return {url.rpartition(".")[2]: [url]}
    found: dict[str, list[str]] = {}
    for folder in (store.join(url, "test"), url):
        for name in store.list_names(folder):
            found.setdefault(name.rpartition(".")[2], []).append(store.join(folder, name))
        if found.keys() & {"json", "tar", "parquet"}:
            break
    return found


def open_captioned(url: str) -> CaptionedSet:
    """Find out what lies at `url` and read all captions; no picture is decoded."""
    url = url.rstrip("/")
    files = _files_in(url)
    if files.get("tar"):
        pictures, captions = _open_tars(files["tar"])
    elif files.get("parquet"):
        pictures, captions = _open_parquet(files["parquet"])
    elif len(files.get("json", ())) == 1:
        pictures, captions = _open_json(files["json"][0])
    else:
        several = f"{len(files['json'])} .json files" if files.get("json") else "nothing of the kind"
        raise InputError(
            f"{url}: no set of pictures with captions: looked for .tar files, .parquet files, or one .json file with "
            f"paths and sentences, and found {several}"
        )
    if not captions:
        raise InputError(f"{url}: no pictures in it")
    name = url.rpartition("/")[2].partition(".")[0] or url
    return CaptionedSet(name=name, url=url, pictures=pictures, captions=tuple(captions))
