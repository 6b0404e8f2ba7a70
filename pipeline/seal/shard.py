"""The bytes of one shard: a plain ustar file and its index, equal for equal samples on any machine.

In: samples, described as `Sample`, with their pictures. Out: the tar, written to an open file with offsets
and digests noted on the way, and the index as Parquet. Python's tarfile would write the same bytes, but says
nothing of offsets while it does, keeps a list of all members and takes ten times as long for a header.
Where samples come from and where shards go is `pipeline.seal.seal`'s part.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.errors import ShardError
from pipeline.manifest import INDEX_SCHEMA, Shard
from pipeline.records import unit_name
from pipeline.shard_index import index_bytes
from pipeline.store_faults import translated

BLOCK_BYTES = tarfile.BLOCKSIZE
RECORD_BYTES = tarfile.RECORDSIZE
MAX_NAME_BYTES = 100
MAX_MEMBER_BYTES = 8**11 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Everything a shard says of one sample but the picture's bytes: equal samples make equal shards."""

    key: str
    title: str
    description: str
    title_usable: bool
    description_usable: bool
    user: str
    date_taken: str
    page_url: str
    license: str
    license_url: str
    url: str
    width: int
    height: int
    image_ext: str
    """ "jpg", "png" or "webp"."""
    image_size: int
    """Bytes of the picture."""
    image_sha256: str
    """Digest of the picture's bytes."""


_PLAIN_COLUMNS = tuple(field.name for field in fields(Sample) if field.name not in {"key", "image_ext", "image_size"})


def _header_template() -> tuple[bytes, bytes, bytes, int]:
    """The parts of a header around name, size and checksum, and the checksum without name and size."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    block = info.tobuf(tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")
    # Fields of the ustar header (POSIX.1-1988): name 0-99, mode, uid, gid to 123, size 124-135 ending in a NUL,
    # time to 147, checksum 148-155. The checksum's own bytes count as spaces.
    before_size, time, rest = block[100:124], block[136:148], block[156:]
    total = sum(before_size) + sum(time) + sum(rest) + 8 * ord(" ")
    return before_size, time, rest, total


_BEFORE_SIZE, _TIME, _REST, _CHECKSUM = _header_template()


def header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member: owner, group and time are 0, so only name and size tell members apart."""
    encoded = name.encode()
    if len(encoded) > MAX_NAME_BYTES:
        raise ShardError(f"{name}: the name is longer than the {MAX_NAME_BYTES} bytes a tar header holds")
    if num_bytes > MAX_MEMBER_BYTES:
        raise ShardError(f"{name}: {num_bytes} bytes are more than a tar header can say")
    size = b"%011o\0" % num_bytes
    checksum = b"%06o\0 " % (_CHECKSUM + sum(encoded) + sum(size))
    return encoded.ljust(MAX_NAME_BYTES, b"\0") + _BEFORE_SIZE + size + _TIME + checksum + _REST


def padded(num_bytes: int) -> int:
    """Bytes a member's content takes in a tar: a multiple of 512."""
    return num_bytes + -num_bytes % BLOCK_BYTES


class TarWriter:
    """Appends samples to an open file; knows where each member lies and the digests of samples and whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._whole = hashlib.sha256()
        self.offset = 0
        """Bytes written so far, which is where the next header goes."""

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._whole.update(data)
        self.offset += len(data)

    def add(self, members: Sequence[tuple[str, bytes]]) -> tuple[list[int], str, int]:
        """Append the members (name, content) of one sample.

        Returns the offset of each member's first byte, and sha256 and CRC-32 of all bytes appended.
        """
        starts, parts, offset = [], [], self.offset
        for name, data in members:
            starts.append(offset + BLOCK_BYTES)
            parts += [header(name, len(data)), data, bytes(-len(data) % BLOCK_BYTES)]
            offset += BLOCK_BYTES + padded(len(data))
        sample = b"".join(parts)
        # The picture was hashed to check it, the sample for readers of single samples, the whole for readers of
        # shards: three passes, since what precedes the common bytes differs each time.
        self._write(sample)
        return starts, hashlib.sha256(sample).hexdigest(), zlib.crc32(sample)

    def finish(self) -> str:
        """Write the end of the archive; returns the digest of the whole file."""
        self._write(bytes(2 * BLOCK_BYTES))
        self._write(bytes(-self.offset % RECORD_BYTES))
        return self._whole.hexdigest()


def caption(sample: Sample) -> str:
    """The one caption for plain readers: the description when usable, else the title."""
    if sample.description_usable:
        return sample.description
    return sample.title if sample.title_usable or not sample.description else sample.description


_encode_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def sample_json(sample: Sample, *, is_resized: bool) -> bytes:
    """The sample's .json.

    The names img2dataset's users know (key, caption, url, width, height, original_width, original_height, sha256,
    status, error_message) mean what they mean there. The original size is left out where pictures were resized:
    it is not kept.
    """
    content: dict[str, Any] = {
        "key": sample.key,
        "caption": caption(sample),
        "title": sample.title,
        "description": sample.description,
        "title_usable": sample.title_usable,
        "description_usable": sample.description_usable,
        "user": sample.user,
        "date_taken": sample.date_taken,
        "page_url": sample.page_url,
        "license": sample.license,
        "license_url": sample.license_url,
        "url": sample.url,
        "width": sample.width,
        "height": sample.height,
        "sha256": sample.image_sha256,
        "status": "success",
        "error_message": None,
    }
    if not is_resized:
        content |= {"original_width": sample.width, "original_height": sample.height}
    return _encode_json(content).encode()


class ShardWriter:
    """Writes a shard's tar to an open file and gathers its index."""

    def __init__(self, file: BinaryIO, *, is_resized: bool) -> None:
        self._tar = TarWriter(file)
        self._is_resized = is_resized
        self._columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}

    def add(self, sample: Sample, picture: bytes) -> None:
        """Append one sample; samples come in the order of their keys."""
        key, offset = sample.key, self._tar.offset
        json_data, text = sample_json(sample, is_resized=self._is_resized), caption(sample).encode()
        members = ((f"{key}.{sample.image_ext}", picture), (f"{key}.json", json_data), (f"{key}.txt", text))
        (image_offset, json_offset, txt_offset), sha256, crc32 = self._tar.add(members)
        row: dict[str, Any] = {name: getattr(sample, name) for name in _PLAIN_COLUMNS}
        row |= {"key": key, "offset": offset, "size": self._tar.offset - offset}
        row |= {"sha256": sha256, "crc32": crc32}
        row |= {"image_ext": sample.image_ext, "image_offset": image_offset, "image_size": len(picture)}
        row |= {"json_offset": json_offset, "json_size": len(json_data)}
        row |= {"txt_offset": txt_offset, "txt_size": len(text)}
        for name, values in self._columns.items():
            values.append(row[name])

    def finish(self) -> tuple[pa.Table, str, int]:
        """End the tar; returns the index, the tar's sha256 and its size in bytes."""
        sha256 = self._tar.finish()
        return pa.table(self._columns, schema=INDEX_SCHEMA), sha256, self._tar.offset


def image_offsets(samples: Sequence[Sample], *, is_resized: bool) -> list[int]:
    """Where each sample's picture lies in the shard of these samples, known without any picture."""
    starts, offset = [], 0
    for sample in samples:
        starts.append(offset + BLOCK_BYTES)
        sizes = (sample.image_size, len(sample_json(sample, is_resized=is_resized)), len(caption(sample).encode()))
        offset += sum(BLOCK_BYTES + padded(size) for size in sizes)
    return starts


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltShard:
    """A shard whose tar lies in a local file, ready to be put."""

    shard: Shard
    index: pa.Table
    index_data: bytes


def build_shard(unit: int, samples: Iterable[tuple[Sample, bytes]], path: Path, *, is_resized: bool) -> BuiltShard:
    """Write the tar of a unit's samples (by key) to the local file `path`."""
    with translated(str(path), "write"), path.open("wb") as file:
        writer = ShardWriter(file, is_resized=is_resized)
        for sample, picture in samples:
            writer.add(sample, picture)
        index, sha256, num_bytes = writer.finish()
    index_data, name = index_bytes(index), unit_name(unit)
    shard = Shard(
        name=f"{name}.tar",
        num_samples=index.num_rows,
        num_bytes=num_bytes,
        sha256=sha256,
        index=f"{name}.parquet",
        index_sha256=hashlib.sha256(index_data).hexdigest(),
    )
    return BuiltShard(shard=shard, index=index, index_data=index_data)
