"""The contract between `pipeline` and `slip`: what a sealed data set consists of.

A manifest lists the shards of a data set with counts and digests; beside it lies an index (Parquet) for
every shard, with the byte offsets of its samples (`pipeline.shard_index`). The tars lie there too, or, when
they are somebody else's, in the folder `shards_url`. The manifest is written last, so whoever finds one
may read everything it names. Both are checked strictly when read: a wrong count or digest is an
error here, not a surprise in the middle of training. The schema for people: manifests/README.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from pipeline import store
from pipeline.errors import ManifestError, ShardError
from pipeline.shard_index import (
    INDEX_CURE,
    INDEX_SCHEMA,
    TAR_BLOCK_BYTES,
    ShardIndex,
    index_bytes,
    index_notes,
    parse_index,
)

# slip imports of pipeline only this module, store and errors.
__all__ = [
    "INDEX_SCHEMA",
    "MANIFEST_NAME",
    "TAR_BLOCK_BYTES",
    "VERSION",
    "Manifest",
    "Shard",
    "ShardIndex",
    "check_sums",
    "index_bytes",
    "index_notes",
    "load_manifest",
    "manifest_url",
    "parse_index",
    "read_index",
    "shard_url",
    "write_manifest",
]

_log = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
VERSION = 2
"""The newest version of the schema."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar of a data set and its index; names are relative to the tars' folder and to the manifest's."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    index: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A sealed data set. Equal content gives equal bytes and therefore one digest."""

    name: str
    variant: str
    num_samples: int
    num_bytes: int
    funnel: dict[str, Any]
    """rows, kept, rejected {reason: count}; rows = kept + all rejected, kept = num_samples."""
    settings: dict[str, Any]
    """What decided the content of the data set."""
    shards: tuple[Shard, ...]
    shards_url: str | None = None
    """Absolute path or URL of the folder with the tars; None: they lie beside the manifest."""

    @property
    def version(self) -> int:
        """The oldest version of the schema that can say this: equal content keeps its bytes and digest."""
        return 1 if self.shards_url is None else 2

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, no time stamps, one closing newline."""
        content = {field.name: getattr(self, field.name) for field in fields(self)} | {"version": self.version}
        if self.shards_url is None:
            del content["shards_url"]
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
        version = _version(content, url)
        expected = {field.name for field in fields(cls)} | {"version"}
        _check_fields(content, expected - {"shards_url"} if version == 1 else expected, url, "")
        if version > 1:
            _check_shards_url(content, url)
        for field in ("name", "variant"):
            _text(content, field, url, "")
        for field in ("num_samples", "num_bytes"):
            _count(content, field, url, "")
        for field in ("funnel", "settings"):
            if not isinstance(content[field], dict):
                raise ManifestError(f"{url}: field {field} is {content[field]!r:.80}, expected an object; rebuild it")
        if not isinstance(content["shards"], list):
            raise ManifestError(f"{url}: field shards is {content['shards']!r:.80}, expected a list; rebuild it")
        content["shards"] = tuple(_shard(content, i, url) for i in range(len(content["shards"])))
        del content["version"]
        manifest = cls(**content)
        check_sums(manifest, url)
        return manifest


def _version(content: dict[str, Any], url: str) -> int:
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ManifestError(
            f"{url}: field version is {version!r:.80}, expected 1 to {VERSION}; is this a manifest of ours?"
        )
    if version > VERSION:
        raise ManifestError(
            f"{url}: version {version} is newer than this program knows ({VERSION}); update yfcc15m-slip"
        )
    return version


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


def _check_shards_url(content: dict[str, Any], url: str) -> None:
    _text(content, "shards_url", url, "")
    shards_url = content["shards_url"]
    if "://" not in shards_url and not shards_url.startswith("/"):
        # Relative to what? Whoever reads it may stand in another folder than its writer.
        raise ManifestError(
            f"{url}: field shards_url is {shards_url!r}, expected an absolute path or a URL: the folder of the tars"
        )


def _shard(content: dict[str, Any], position: int, url: str) -> Shard:
    """Check one entry of `shards`."""
    entry, where = content["shards"][position], f"shards[{position}]."
    if not isinstance(entry, dict):
        raise ManifestError(f"{url}: field {where[:-1]} is {entry!r:.80}, expected an object; rebuild it")
    _check_fields(entry, {field.name for field in fields(Shard)}, url, where)
    for field in ("name", "index"):
        _text(entry, field, url, where)
        name = entry[field]
        # Names stay inside the data set's folders, whoever wrote the manifest.
        if name.startswith("/") or "\\" in name or "://" in name or ".." in name.split("/"):
            folder = "shards_url" if field == "name" and "shards_url" in content else "the manifest"
            raise ManifestError(f"{url}: field {where}{field} is {name!r}, expected a name relative to {folder}")
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


def _read_twice(url: str) -> bytes:
    """The content on which two readings agree: nothing tells whether a manifest was damaged on its way."""
    before = store.read_bytes(url)
    if store.is_local(url):
        return before
    for _ in range(3):
        data = store.read_bytes(url)
        if data == before:
            return data
        _log.warning("%s: came differently when it was read again; reading it once more", url)
        before = data
    raise ManifestError(f"{url}: is different each time it is read; find out what is wrong with the store or network")


def load_manifest(url: str) -> Manifest:
    """Read and check the manifest at `url`, the manifest itself or the folder it is in."""
    url = manifest_url(url)
    if not store.exists(url):
        raise ManifestError(
            f"{url}: there is no manifest; it is written last, so either the path is wrong or the build has not "
            "finished (run the build command again)"
        )
    return Manifest.from_json(_read_twice(url), url)


def write_manifest(manifest: Manifest, base_url: str) -> None:
    """Write manifest.json into the folder `base_url`; leave it alone when it already says the same."""
    url = store.join(base_url, MANIFEST_NAME)
    check_sums(manifest, url)
    data = manifest.to_json()
    if store.exists(url) and store.read_bytes(url) == data:
        return
    store.write_bytes(url, data)


def _folder(base_url: str) -> str:
    """The folder of a manifest, given either."""
    return store.parent(base_url) if base_url.endswith(".json") else base_url


def shard_url(manifest: Manifest, base_url: str, shard: Shard) -> str:
    """Where a shard's tar is; `base_url` is the URL of the manifest or of its folder."""
    return store.join(manifest.shards_url or _folder(base_url), shard.name)


def read_index(base_url: str, shard: Shard) -> ShardIndex:
    """Read the index of one shard of the manifest in (or at) `base_url`; digest and layout are checked."""
    url = store.join(_folder(base_url), shard.index)
    data = store.read_bytes(url)
    found = hashlib.sha256(data).hexdigest()
    if found != shard.index_sha256 and not store.is_local(url):
        _log.warning("%s: sha256 is %s, the manifest says %s; reading it again", url, found, shard.index_sha256)
        data = store.read_bytes(url)
        found = hashlib.sha256(data).hexdigest()
    if found != shard.index_sha256:
        raise ShardError(f"{url}: sha256 is {found}, the manifest says {shard.index_sha256}; {INDEX_CURE}")
    return parse_index(data, url=url, shard=shard.name, num_samples=shard.num_samples, num_bytes=shard.num_bytes)
