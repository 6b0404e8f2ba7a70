"""The bytes of one shard: a plain ustar file and its index, equal for equal samples on any machine.

In: samples as selection row, outcome and picture. Out: the tar, written to an open file with offsets and
digests noted on the way, and the index as Parquet. Python's tarfile would write the same bytes, but says
nothing of offsets while it does and keeps a list of all members. Where samples come from and where shards
go is `pipeline.seal`'s part.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardError
from pipeline.manifest import INDEX_SCHEMA

BLOCK_BYTES = tarfile.BLOCKSIZE
RECORD_BYTES = tarfile.RECORDSIZE
MAX_NAME_BYTES = 100
MAX_MEMBER_BYTES = 8**11 - 1

_FROM_SELECTION = ("title", "description", "user", "date_taken", "page_url", "license", "license_url", "url")


def header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member: owner, group and time are 0, so only name and size tell members apart."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ShardError(f"{name}: the name is longer than the {MAX_NAME_BYTES} bytes a tar header holds")
    if num_bytes > MAX_MEMBER_BYTES:
        raise ShardError(f"{name}: {num_bytes} bytes are more than a tar header can say")
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")


class TarWriter:
    """Appends members to an open file; knows where each lies and the digest of all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._whole = hashlib.sha256()
        self._sample = hashlib.sha256()
        self.offset = 0
        """Bytes written so far, which is where the next header goes."""

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._whole.update(data)
        self._sample.update(data)
        self.offset += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Append one member; returns the offset of its first byte."""
        self._write(header(name, len(data)))
        start = self.offset
        self._write(data)
        self._write(bytes(-len(data) % BLOCK_BYTES))
        return start

    def sample_sha256(self) -> str:
        """Digest of everything written since this was last asked."""
        digest, self._sample = self._sample.hexdigest(), hashlib.sha256()
        return digest

    def finish(self) -> str:
        """Write the end of the archive; returns the digest of the whole file."""
        self._write(bytes(2 * BLOCK_BYTES))
        self._write(bytes(-self.offset % RECORD_BYTES))
        return self._whole.hexdigest()


def caption(row: dict[str, Any]) -> str:
    """The one caption for plain readers: the description when usable, else the title."""
    if row["description_usable"]:
        return str(row["description"])
    return str(row["title"] if row["title_usable"] or not row["description"] else row["description"])


def _sample_json(row: dict[str, Any], outcome: dict[str, Any]) -> bytes:
    content = {name: row[name] for name in ("key", *_FROM_SELECTION, "title_usable", "description_usable")}
    content |= {name: outcome[name] for name in ("width", "height", "sha256")}
    content["caption"] = caption(row)
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def write_sample(tar: TarWriter, row: dict[str, Any], outcome: dict[str, Any], picture: bytes) -> dict[str, Any]:
    """Append one sample; returns its row of the index."""
    key, offset = row["key"], tar.offset
    members = {"image": picture, "json": _sample_json(row, outcome), "txt": caption(row).encode()}
    extensions = {"image": outcome["format"], "json": "json", "txt": "txt"}
    found: dict[str, Any] = {"key": key, "offset": offset, "image_ext": outcome["format"]}
    for member, data in members.items():
        found[f"{member}_offset"] = tar.add(f"{key}.{extensions[member]}", data)
        found[f"{member}_size"] = len(data)
    found |= {"size": tar.offset - offset, "sha256": tar.sample_sha256()}
    found |= {name: outcome[name] for name in ("width", "height")}
    return found | {name: row[name] for name in _FROM_SELECTION}


def index_bytes(rows: list[dict[str, Any]]) -> bytes:
    """The index as Parquet."""
    sink = io.BytesIO()
    # Without the Arrow schema, which would only repeat the columns.
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), sink, compression="zstd", store_schema=False)
    return sink.getvalue()
