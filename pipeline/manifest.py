"""The contract between `pipeline` and `slip`: what a sealed data set consists of.

A manifest lists the shards of a data set with counts and digests; beside every shard lies an index
(Parquet) with the byte offsets of its samples. The manifest is written last, so whoever finds one
may read everything it names. Both are checked strictly when read: a wrong count or digest is an
error here, not a surprise in the middle of training. The schema for people: manifests/README.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import ManifestError, ShardError

MANIFEST_NAME = "manifest.json"
VERSION = 1

TAR_BLOCK_BYTES = 512

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),  # of the sample's first tar header
        ("size", pa.int64()),  # bytes from there to the next sample
        ("image_ext", pa.string()),  # "jpg", "png" or "webp"
        ("image_offset", pa.int64()),  # of the picture's first byte
        ("image_size", pa.int64()),
        ("txt_offset", pa.int64()),
        ("txt_size", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("sha256", pa.string()),  # hex, of the shard's bytes [offset, offset + size)
        # For people and for rebuilding a damaged shard; training does not read what follows.
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image_sha256", pa.string()),  # hex, of the picture's bytes
        ("title", pa.string()),
        ("description", pa.string()),
        ("title_usable", pa.bool_()),
        ("description_usable", pa.bool_()),
        ("user", pa.string()),
        ("date_taken", pa.string()),
        ("page_url", pa.string()),
        ("license", pa.string()),
        ("license_url", pa.string()),
        ("url", pa.string()),
    ]
)
"""One row per sample of a shard, in the order of the tar."""

_OFFSET_COLUMNS = tuple(field.name for field in INDEX_SCHEMA if field.type == pa.int64())
_SHA256 = re.compile(r"[0-9a-f]{64}")

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar of a data set and its index; both names are relative to the manifest."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    index: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A sealed data set. Equal content gives equal bytes and therefore one digest."""

    version: int = VERSION
    name: str
    variant: str
    num_samples: int
    num_bytes: int
    funnel: dict[str, Any]
    """rows, kept, rejected {reason: count}; rows = kept + all rejected, kept = num_samples."""
    settings: dict[str, Any]
    """What decided the content of the data set."""
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, no time stamps, one closing newline."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content["shards"] = [asdict(shard) for shard in self.shards]
        return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @cached_property
    def sha256(self) -> str:
        """Digest of the canonical bytes: the identity of the data set."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, data: bytes, url: str) -> Manifest:
        """Read and check a manifest; `url` is only used in error messages."""
        try:
            content = json.loads(data)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ManifestError(f"{url}: not a manifest, its JSON cannot be read ({error}); rebuild it") from None
        if not isinstance(content, dict):
            raise ManifestError(f"{url}: not a manifest, found a JSON {type(content).__name__} instead of an object")
        _check_version(content, url)
        _check_fields(content, {field.name for field in fields(cls)}, url, "")
        for field in ("name", "variant"):
            _text(content, field, url, "")
        for field in ("num_samples", "num_bytes"):
            _count(content, field, url, "")
        for field in ("funnel", "settings"):
            if not isinstance(content[field], dict):
                raise ManifestError(f"{url}: field {field} is {content[field]!r:.80}, expected an object; rebuild it")
        if not isinstance(content["shards"], list):
            raise ManifestError(f"{url}: field shards is {content['shards']!r:.80}, expected a list; rebuild it")
        content["shards"] = tuple(_shard(entry, i, url) for i, entry in enumerate(content["shards"]))
        manifest = cls(**content)
        check_sums(manifest, url)
        return manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardIndex:
    """Where each sample of one shard lies; row i is sample i of the tar."""

    keys: list[str]
    image_ext: list[str]
    sha256: list[str]
    """Digest of the shard's bytes [offset, offset + size)."""
    offset: Int64Array
    size: Int64Array
    image_offset: Int64Array
    image_size: Int64Array
    txt_offset: Int64Array
    txt_size: Int64Array
    json_offset: Int64Array
    json_size: Int64Array

    def __len__(self) -> int:
        return len(self.keys)


def _check_version(content: dict[str, Any], url: str) -> None:
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ManifestError(f"{url}: field version is {version!r:.80}, expected {VERSION}; is this a manifest of ours?")
    if version > VERSION:
        raise ManifestError(
            f"{url}: version {version} is newer than this program knows ({VERSION}); update yfcc15m-slip"
        )


def _check_fields(content: dict[str, Any], expected: set[str], url: str, where: str) -> None:
    for kind, names in (("missing", expected - content.keys()), ("unknown", content.keys() - expected)):
        if names:
            raise ManifestError(f"{url}: {kind} field {', '.join(where + name for name in sorted(names))}; rebuild it")


def _text(content: dict[str, Any], field: str, url: str, where: str) -> None:
    if not isinstance(content[field], str) or not content[field]:
        raise ManifestError(f"{url}: field {where}{field} is {content[field]!r:.80}, expected a text; rebuild it")


def _count(content: dict[str, Any], field: str, url: str, where: str, least: int = 0) -> None:
    value = content[field]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ManifestError(
            f"{url}: field {where}{field} is {value!r:.80}, expected a whole number of at least {least}; rebuild it"
        )


def _shard(entry: Any, position: int, url: str) -> Shard:
    """Check one entry of `shards`."""
    where = f"shards[{position}]."
    if not isinstance(entry, dict):
        raise ManifestError(f"{url}: field {where[:-1]} is {entry!r:.80}, expected an object; rebuild it")
    _check_fields(entry, {field.name for field in fields(Shard)}, url, where)
    for field in ("name", "index"):
        _text(entry, field, url, where)
        name = entry[field]
        # Names stay inside the data set's folder, whoever wrote the manifest.
        if name.startswith("/") or "\\" in name or "://" in name or ".." in name.split("/"):
            raise ManifestError(f"{url}: field {where}{field} is {name!r}, expected a name relative to the manifest")
    _count(entry, "num_samples", url, where, least=1)
    _count(entry, "num_bytes", url, where, least=1)
    for field in ("sha256", "index_sha256"):
        if not isinstance(entry[field], str) or not _SHA256.fullmatch(entry[field]):
            raise ManifestError(
                f"{url}: field {where}{field} is {entry[field]!r:.80}, expected 64 lower-case hex digits; rebuild it"
            )
    return Shard(**entry)


def _check_funnel(manifest: Manifest, url: str) -> None:
    funnel = manifest.funnel
    _check_fields(funnel, {"rows", "kept", "rejected"}, url, "funnel.")
    for field in ("rows", "kept"):
        _count(funnel, field, url, "funnel.")
    if not isinstance(funnel["rejected"], dict):
        raise ManifestError(f"{url}: field funnel.rejected is {funnel['rejected']!r:.80}, expected an object")
    for reason in funnel["rejected"]:
        _count(funnel["rejected"], reason, url, "funnel.rejected.")
    accounted = funnel["kept"] + sum(funnel["rejected"].values())
    if accounted != funnel["rows"]:
        raise ManifestError(f"{url}: funnel.rows is {funnel['rows']}, kept and rejected add up to {accounted}")
    if funnel["kept"] != manifest.num_samples:
        raise ManifestError(f"{url}: funnel.kept is {funnel['kept']}, num_samples is {manifest.num_samples}")


def check_sums(manifest: Manifest, url: str) -> None:
    """Raise ManifestError unless totals, funnel and shard names agree with each other."""
    if not manifest.shards:
        raise ManifestError(f"{url}: field shards is empty, expected at least one shard; rebuild it")
    for field in ("num_samples", "num_bytes"):
        found, total = getattr(manifest, field), sum(getattr(shard, field) for shard in manifest.shards)
        if found != total:
            raise ManifestError(f"{url}: field {field} is {found}, its shards add up to {total}; rebuild it")
    seen: set[str] = set()
    for shard in manifest.shards:
        for name in (shard.name, shard.index):
            if name in seen:
                raise ManifestError(f"{url}: field shards names {name} twice; rebuild it")
            seen.add(name)
    _check_funnel(manifest, url)


def manifest_url(url: str) -> str:
    """The manifest's own URL, given it or the folder it is in."""
    return url if url.rstrip("/").endswith(".json") else store.join(url, MANIFEST_NAME)


def load_manifest(url: str) -> Manifest:
    """Read and check the manifest at `url`, the manifest itself or the folder it is in."""
    url = manifest_url(url)
    if not store.exists(url):
        raise ManifestError(
            f"{url}: there is no manifest; it is written last, so either the path is wrong or the build has not "
            "finished (run the build command again)"
        )
    return Manifest.from_json(store.read_bytes(url), url)


def write_manifest(manifest: Manifest, base_url: str) -> None:
    """Write manifest.json into the folder `base_url`; leave it alone when it already says the same."""
    url = store.join(base_url, MANIFEST_NAME)
    check_sums(manifest, url)
    data = manifest.to_json()
    if store.exists(url) and store.read_bytes(url) == data:
        return
    store.write_bytes(url, data)


def _check_layout(index: ShardIndex, shard: Shard, url: str) -> None:
    """Raise ShardError unless samples follow each other inside the shard and members inside their sample."""
    end = index.offset + index.size
    members_inside = np.ones(len(index), dtype=bool)
    for member in ("image", "txt", "json"):
        start, size = getattr(index, f"{member}_offset"), getattr(index, f"{member}_size")
        members_inside &= (start >= index.offset + TAR_BLOCK_BYTES) & (size >= 0) & (start + size <= end)
    faults = {
        "offsets do not increase": bool((index.offset[1:] < end[:-1]).any()) or bool((index.offset < 0).any()),
        "a sample has no bytes": bool((index.size <= 0).any()),
        f"samples end at byte {int(end.max())}, the shard has {shard.num_bytes}": bool(end.max() > shard.num_bytes),
        "a member lies outside its sample": not bool(members_inside.all()),
        "a key occurs twice": len(set(index.keys)) != len(index.keys),
    }
    found = [fault for fault, present in faults.items() if present]
    if found:
        raise ShardError(f"{url}: the index of {shard.name} is damaged: {'; '.join(found)}; rebuild the shard")


def read_index(manifest_base_url: str, shard: Shard) -> ShardIndex:
    """Read the index of one shard of the manifest in (or at) `manifest_base_url`; digest and layout are checked."""
    folder = store.parent(manifest_base_url) if manifest_base_url.endswith(".json") else manifest_base_url
    url = store.join(folder, shard.index)
    data = store.read_bytes(url)
    found = hashlib.sha256(data).hexdigest()
    if found != shard.index_sha256:
        raise ShardError(f"{url}: sha256 is {found}, the manifest says {shard.index_sha256}; rebuild the shard")
    columns = ["key", "image_ext", "sha256", *_OFFSET_COLUMNS]
    try:
        # One thread: the columns of one shard are small, and readers have their own threads.
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)
        table = table.cast(pa.schema([INDEX_SCHEMA.field(name) for name in table.column_names]))
        empty = [name for name in columns if table.column(name).null_count]
        if empty:
            raise ShardError(f"{url}: column {', '.join(empty)} has empty cells; rebuild the shard")
        arrays = {name: table.column(name).to_numpy() for name in _OFFSET_COLUMNS}
        texts = {name: table.column(name).to_pylist() for name in ("key", "image_ext", "sha256")}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ShardError(f"{url}: not an index ({error}); rebuild the shard") from error
    if table.num_rows != shard.num_samples or table.num_rows == 0:
        raise ShardError(f"{url}: {table.num_rows} samples, the manifest says {shard.num_samples}; rebuild the shard")
    index = ShardIndex(keys=texts["key"], image_ext=texts["image_ext"], sha256=texts["sha256"], **arrays)
    _check_layout(index, shard, url)
    return index
