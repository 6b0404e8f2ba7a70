"""OpenAI's list of YFCC15M: which rows of YFCC100M belong to the data set.

In: lines of line number, photo id and key, separated by tabs, no header, text or bzip2 (14,829,396 of them in the
real one). Out: a folder of arrays, sorted by the column the metadata is joined by; every process maps them into its
memory, so they take their 24 bytes a row once, however many processes look rows up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metadata.lines import Block, parse_integers, read_blocks, split_columns

Join = Literal["line", "photo_id", "key"]
COLUMNS: tuple[Join, ...] = ("line", "photo_id", "key")

WHAT = "OpenAI's list (line number, photo id and key, separated by tabs, no header)"
_KEY_BYTES = 32
_NUMBERS: dict[Join, type[np.int64] | type[np.uint64]] = {"line": np.int64, "photo_id": np.int64, "key": np.uint64}
_UNKNOWN: dict[Join, int] = {"line": -1, "photo_id": -1, "key": 0}


def hash_keys(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """A number for every key of the public bucket, 0 for b"" (no key).

    A key has up to 32 characters; 64 bits of it tell a hundred million keys apart (one pair alike in 10^4 such sets).
    """
    words = np.array(keys, dtype=f"S{_KEY_BYTES}").view(np.uint64).reshape(-1, _KEY_BYTES // 8)
    hashes = np.zeros(len(keys), np.uint64)
    for word in words.T:
        hashes = (hashes ^ word) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def search(ascending: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """Where each value stands, -1 where it does not: [3, 5], [5, 4] -> [1, -1]."""
    if not len(ascending):
        return np.full(len(values), -1, np.int64)
    order = np.argsort(values)  # neighbours are found in the same pages
    at = np.empty(len(values), np.int64)
    at[order] = np.searchsorted(ascending, values[order])
    at[at == len(ascending)] = 0
    return np.where(ascending[at] == values, at, -1)


# What this process has open, by path; a fresh folder for every run keeps the paths from meaning two things.
_arrays: dict[Path, NDArray[Any]] = {}
_files: dict[Path, int] = {}


def load_array(path: Path) -> NDArray[Any]:
    """An array as a read-only map of its file, which stays open."""
    if path not in _arrays:
        _arrays[path] = np.load(path, mmap_mode="r")
    return _arrays[path]


def read_pieces(path: Path, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    """Pieces of a file, which stays open.

    Read one by one, not mapped: the pages of a mapped file would add up to its size in the memory of each process.
    """
    if path not in _files:
        _files[path] = os.open(path, os.O_RDONLY)
    file = _files[path]
    return [os.pread(file, size, start) for start, size in zip(starts, sizes, strict=True)]


def close_files() -> None:
    """Let go of all arrays and files that this process has opened here, so that their space is free once deleted."""
    for file in _files.values():
        os.close(file)
    _files.clear()
    _arrays.clear()


def _values(cheap: pa.RecordBatch, name: Join) -> NDArray[Any]:
    """A column of metadata in the form the list holds it in."""
    if name == "key":
        return hash_keys(cheap.column("bucket_key").cast(pa.binary()).to_pylist())
    values: NDArray[np.int64] = cheap.column(name).to_numpy()
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetList:
    """The list's rows in the order of the joined column; small, goes to every process."""

    url: str
    folder: Path
    join: Join
    num_rows: int

    def column(self, name: Join) -> NDArray[Any]:
        """line, photo_id (int64), or key (hashes, 0 where there is none) of all rows."""
        return load_array(self.folder / f"{name}.npy")

    @property
    def photo_ids(self) -> NDArray[np.int64]:
        """Of all rows."""
        return self.column("photo_id")

    def find(self, cheap: pa.RecordBatch) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For rows of metadata (line, photo_id, bucket_key) their row in the list, -1 for none; which contradict it.

        A row contradicts its listed one where another column than the joined one is known on both sides and differs.
        """
        values = _values(cheap, self.join)
        entries = search(self.column(self.join), values)
        entries[values == _UNKNOWN[self.join]] = -1
        found = np.flatnonzero(entries >= 0)
        rows = cheap.take(pa.array(found))
        contradicts = np.zeros(len(entries), np.bool_)
        for name, unknown in _UNKNOWN.items():
            if name != self.join:
                theirs, ours = _values(rows, name), self.column(name)[entries[found]]
                contradicts[found] |= (ours != theirs) & (ours != unknown) & (theirs != unknown)
        return entries, contradicts

    def describe(self, entry: int) -> str:
        """What the list says in one row: "line 7, photo 8, key 4e2f7a"."""
        (key,) = self.keys(np.array([entry]))
        return f"line {self.column('line')[entry]}, photo {self.column('photo_id')[entry]}, key {key}"

    def keys(self, entries: NDArray[np.int64]) -> list[str]:
        """The keys of rows of the list, as they stand there."""
        starts = _KEY_BYTES * load_array(self.folder / "position.npy")[entries].astype(np.int64)
        keys = read_pieces(self.folder / "keys", starts.tolist(), [_KEY_BYTES] * len(starts))
        return [key.rstrip(b"\0").decode("ascii", "replace") for key in keys]


def _numbers(block: Block) -> tuple[dict[str, NDArray[Any]], list[bytes]]:
    """line, photo_id and key of a block as numbers, and the keys as they are; an InputError names what is wrong."""
    columns = split_columns(block, COLUMNS, wanted=COLUMNS)
    if len(columns.lines) < len(columns.widths):
        offset = int(np.argmax(columns.widths != len(COLUMNS)))
        raise InputError(
            f"{block.url}: line {block.first_line + offset + 1} has {columns.widths[offset]} columns; expected {WHAT}"
        )
    numbers: dict[str, NDArray[Any]] = {}
    for name in ("line", "photo_id"):
        numbers[name], is_number = parse_integers(columns.batch.column(name))
        if not is_number.all():
            offset = int(np.argmin(is_number))
            found = columns.batch.column(name)[offset].as_py().decode(errors="replace")
            raise InputError(
                f"{block.url}: line {block.first_line + offset + 1}: {found[:200]!r} is no number (column {name}); "
                f"expected {WHAT}"
            )
    keys: list[bytes] = columns.batch.column("key").to_pylist()
    numbers["key"] = hash_keys(keys)
    return numbers, keys


def read_photo_ids(url: str) -> NDArray[np.int64]:
    """The photo ids of the list, in its order."""
    parts = [_numbers(block)[0]["photo_id"] for block in read_blocks(url, what=WHAT)]
    ids: NDArray[np.int64] = np.concatenate(parts)
    return ids


def read_subset_list(url: str, folder: Path, *, join: Join) -> SubsetList:
    """Read the list into `folder`, which is made, and sort it; a row met twice counts once.

    A line number that stands there with two photos is an InputError when it is what the metadata is joined by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.raw").open("wb")) for name in COLUMNS}
        key_file = stack.enter_context((folder / "keys").open("wb"))
        for block in read_blocks(url, what=WHAT):
            numbers, keys = _numbers(block)
            for name, file in files.items():
                file.write(numbers[name].astype(_NUMBERS[name]).tobytes())
            key_file.write(np.array(keys, dtype=f"S{_KEY_BYTES}").tobytes())
    positions = _sort(url, folder, join)
    for name in COLUMNS:  # one after the other: each has 119 MB in the real list
        np.save(folder / f"{name}.npy", np.fromfile(folder / f"{name}.raw", _NUMBERS[name])[positions])
        (folder / f"{name}.raw").unlink()
    np.save(folder / "position.npy", positions)
    return SubsetList(url=url, folder=folder, join=join, num_rows=len(positions))


def _sort(url: str, folder: Path, join: Join) -> NDArray[np.int32]:
    """Positions, in the file, of the rows in the order of the joined column, each of its values once."""
    values = np.fromfile(folder / f"{join}.raw", _NUMBERS[join])
    order = np.argsort(values, kind="stable").astype(np.int32)
    values = values[order]
    is_repeat = np.concatenate([[False], values[1:] == values[:-1]])
    if join == "line" and is_repeat.any():
        photos = np.fromfile(folder / "photo_id.raw", np.int64)[order]
        contradicts = is_repeat & np.concatenate([[False], photos[1:] != photos[:-1]])
        if contradicts.any():
            at = int(np.argmax(contradicts))
            raise InputError(
                f"{url}: line number {values[at]} is listed with photo {photos[at - 1]} and with photo {photos[at]}; "
                f"expected {WHAT}, each line number once"
            )
    if join == "key":
        is_repeat |= values == 0
        if is_repeat.all():
            raise InputError(f"{url}: no row has a key, so it cannot be joined by key; expected {WHAT}")
    positions: NDArray[np.int32] = order[~is_repeat]
    return positions
