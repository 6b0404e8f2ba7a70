"""One tar of a data set to be: read now, or remembered from an earlier run.

In: a tar's place and size. Out: its index, written beside the manifest to be, and its entry for the manifest. Every
index notes the URL, size and digest of its tar, so that the same command again need not read the tar.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from pipeline import store
from pipeline.errors import ShardError, StoreError
from pipeline.manifest import Shard, index_bytes, index_notes, parse_index
from slip.data.tar_index import index_tar
from slip.data.tar_lists import TarPlace
from slip.data.tar_members import Watch

logger = logging.getLogger(__name__)

_NOTES_VERSION = 1
"""Goes up when a tar would be indexed otherwise than before: older indexes are then made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarEntry:
    """A tar that was read: what the manifest says of it, and what it does not."""

    shard: Shard
    """With 0 samples when none of the tar's can be used; the manifest then leaves it out."""
    rejected: dict[str, int]


def _entry(tar: TarPlace, data: bytes, notes: dict[str, Any]) -> TarEntry:
    """The manifest's entry for a tar whose index is `data`."""
    shard = Shard(
        name=tar.name,
        num_samples=notes["num_samples"],
        num_bytes=notes["num_bytes"],
        sha256=notes["sha256"],
        index=tar.index,
        index_sha256=hashlib.sha256(data).hexdigest(),
    )
    return TarEntry(shard=shard, rejected=notes["rejected"])


def known_entry(output: str, tar: TarPlace, num_bytes: int) -> TarEntry | None:
    """What an earlier run of this command made of a tar, or None when it has to be read."""
    url = store.join(output, tar.index)
    if not store.exists(url):
        return None
    data = store.read_bytes(url)
    try:
        notes = json.loads(index_notes(data, url) or "{}")
        if (notes.get("version"), notes.get("url"), notes.get("num_bytes")) != (_NOTES_VERSION, tar.url, num_bytes):
            return None
        if notes["num_samples"]:
            parse_index(data, url=url, shard=tar.name, num_samples=notes["num_samples"], num_bytes=num_bytes)
        return _entry(tar, data, notes)
    except (ShardError, ValueError) as error:
        logger.warning("%s; its tar is read again", error)
        return None


def read_entry(output: str, tar: TarPlace, num_bytes: int, watch: Watch) -> TarEntry:
    """Read one tar and write its index."""
    with store.open_stream(tar.url) as stream:
        indexed = index_tar(stream, tar.url, watch)
    if indexed.num_bytes != num_bytes:
        raise StoreError(f"{tar.url}: had {num_bytes} bytes, then {indexed.num_bytes}: somebody is writing it; wait")
    notes = {
        "version": _NOTES_VERSION,
        "url": tar.url,
        "num_bytes": indexed.num_bytes,
        "sha256": indexed.sha256,
        "num_samples": indexed.index.num_rows,
        "rejected": indexed.rejected,
    }
    data = index_bytes(indexed.index, json.dumps(notes, sort_keys=True))
    store.write_bytes(store.join(output, tar.index), data)
    return _entry(tar, data, notes)
