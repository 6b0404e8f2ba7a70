"""What the samples of a shard are, before their pictures: from the work folder, from the index, or from the tar.

In: a unit's selection and outcomes, or a sealed shard's index, or an intact tar. Out: its `Sample`s in the
order of the shard. The three agree, which is why a damaged shard can be rebuilt from whichever is left.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import InputError, ShardError
from pipeline.fetch.fetched import fetched_tar, outcomes_path, read_outcomes
from pipeline.records import SELECTION_SCHEMA
from pipeline.seal.shard import MAX_NAME_BYTES, Sample
from pipeline.selection.selection import part_path
from pipeline.store_faults import translated

_FIELDS = tuple(field.name for field in fields(Sample))
_FROM_SELECTION = tuple(name for name in _FIELDS if name in set(SELECTION_SCHEMA.names))
_FROM_OUTCOME = {"width": "width", "height": "height", "image_ext": "format", "image_size": "num_bytes"}
_FROM_OUTCOME["image_sha256"] = "sha256"

# WebDataset splits a member's name at its first dot and takes what is left of it for the key.
_BAD_KEY = re.compile(r"[./\\\x00-\x1f\x7f]")
_LONGEST_SUFFIX = len(".webp")

_TAR_BUFFER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Where a good picture came from."""

    position: int
    """0-based row in the unit's selection."""
    member: str
    offset: int
    """Name of the picture in the unit's fetched tar, and where its first byte is."""


def refetch_advice(work: Path, unit: int) -> str:
    """What to do when a unit's fetched files cannot be used."""
    return f"delete {fetched_tar(work, unit).with_suffix('.*')} and run the build again"


def read_selection(work: Path, unit: int) -> pa.Table:
    """The selected rows of a unit."""
    path = part_path(work, unit)
    with translated(str(path), "read"):
        return pq.read_table(path, schema=SELECTION_SCHEMA)


def samples_of_unit(work: Path, unit: int) -> list[tuple[Sample, Fetched]]:
    """The samples of a fetched unit, by key."""
    selection, outcomes = read_selection(work, unit), read_outcomes(work, unit)
    if not selection["key"].equals(outcomes["key"]):
        raise ShardError(
            f"{outcomes_path(work, unit)}: its {outcomes.num_rows} rows are not the {selection.num_rows} of "
            f"{part_path(work, unit)}; {refetch_advice(work, unit)}"
        )
    columns = {name: selection[name] for name in _FROM_SELECTION}
    columns |= {name: outcomes[column] for name, column in _FROM_OUTCOME.items()}
    columns |= {"position": pa.array(range(selection.num_rows)), "member": outcomes["member"]}
    columns["tar_offset"] = outcomes["offset"]
    good = pa.table(columns).filter(pc.equal(outcomes["reason"], "")).sort_by("key")
    found = [
        (Sample(**row), fetched)
        for row in good.to_pylist()
        for fetched in [Fetched(position=row.pop("position"), member=row.pop("member"), offset=row.pop("tar_offset"))]
    ]
    _check_keys([sample.key for sample, _ in found], part_path(work, unit))
    return found


def _check_keys(keys: list[str], path: Path) -> None:
    previous = None
    for key in keys:
        if not key or _BAD_KEY.search(key) or len(key.encode()) > MAX_NAME_BYTES - _LONGEST_SUFFIX:
            raise InputError(
                f"{path}: key {key!r:.200} cannot name a sample; expected 1 to "
                f"{MAX_NAME_BYTES - _LONGEST_SUFFIX} bytes without dots, slashes and control characters"
            )
        if key == previous:
            raise InputError(f"{path}: key {key!r} occurs twice; keys must be unique")
        previous = key


def samples_of_index(data: bytes, url: str) -> list[Sample]:
    """The samples an intact index names; `url` is only used in error messages."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(_FIELDS))
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{url}: not an index ({error}); rebuild the shard") from error
    missing = sorted(set(_FIELDS) - set(table.column_names))
    if missing:
        raise ShardError(
            f"{url}: column {', '.join(missing)} is missing, so the shard cannot be rebuilt from its index; an earlier "
            "version of this program wrote it: build the data set anew"
        )
    return [Sample(**row) for row in table.to_pylist()]


class _StoredFile(io.RawIOBase):
    """A file or object as a seekable stream; every read is one ranged read."""

    def __init__(self, url: str, num_bytes: int) -> None:
        self._url, self._num_bytes, self._position = url, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._num_bytes - self._position))
        buffer[:length] = store.read_range(self._url, self._position, length)
        self._position += length
        return length


def samples_of_tar(url: str, num_bytes: int) -> list[Sample]:
    """The samples of an intact shard of ours, read from its .json members."""
    stream = io.BufferedReader(_StoredFile(url, num_bytes), _TAR_BUFFER_BYTES)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            return list(_samples_in(tar))
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{url}: not a shard of ours ({type(error).__name__}: {error})") from None


def _samples_in(tar: tarfile.TarFile) -> Iterator[Sample]:
    """Members come as picture, .json, .txt of each sample."""
    picture: tarfile.TarInfo | None = None
    for member in tar:
        key, _, extension = member.name.partition(".")
        if extension not in {"json", "txt"}:
            picture = member
        elif extension == "json":
            file = tar.extractfile(member)
            assert file is not None
            content = json.loads(file.read())
            if picture is None or content["key"] != key or picture.name.partition(".")[0] != key:
                raise ValueError(f"member {member.name} does not follow its picture")
            content |= {"image_ext": picture.name.partition(".")[2], "image_size": picture.size}
            content["image_sha256"] = content["sha256"]
            yield Sample(**{name: content[name] for name in _FIELDS})
