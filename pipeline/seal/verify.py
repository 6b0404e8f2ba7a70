"""Verify: read a sealed data set back and name every damaged file and sample.

In: the manifest of an output. Out: a list of `Damage`, empty when all is as the manifest says. A shard is read
once and compared with its digest; only when that differs is it read again to find the samples, by the digests in
its index. An index is compared with the manifest first: a damaged one is named and not believed. Tars of others,
which `slip index` made a manifest for, have no files for other tools beside them. Nothing is changed here; that is the
part of `pipeline.seal.mend`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ShardError
from pipeline.manifest import Manifest, Shard, load_manifest, read_index, shard_url
from pipeline.progress import Progress
from pipeline.seal.card import CARD_NAME
from pipeline.seal.offsets import SIZES_NAME, idx_bytes, idx_name, sizes_bytes
from pipeline.seal.shard_reader import pieces, read_spans
from pipeline.shard_index import INDEX_CURE

log = logging.getLogger(__name__)

BYTES_PER_PROCESS = 1 << 30
"""Less than that a process has read before another has started."""
_MOST_NAMED = 20
"""Samples named in one line of the log; the rest are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One file of the output that is not what the manifest says."""

    shard: str
    """Name of the shard it belongs to; of the file itself where it belongs to none."""
    file: str
    """Name of the damaged file."""
    samples: tuple[str, ...]
    """Keys of the damaged samples; () where they are not known or the damage lies outside any."""
    what: str
    """What was found and what was expected."""

    def __str__(self) -> str:
        """ "00003.tar: 2 samples damaged (123, 456): sha256 is ..., the manifest says ..."."""
        if not self.samples:
            return f"{self.file}: {self.what}"
        named = ", ".join(self.samples[:_MOST_NAMED])
        more = len(self.samples) - _MOST_NAMED
        named += f" and {more:,} more" if more > 0 else ""
        return f"{self.file}: {len(self.samples):,} samples damaged ({named}): {self.what}"


def _sha256_of(url: str, num_bytes: int) -> str:
    digest = hashlib.sha256()
    for piece in pieces(url, num_bytes):
        digest.update(piece)
    return digest.hexdigest()


def _check_index(base_url: str, shard: Shard) -> tuple[pa.Table | None, str]:
    """The shard's index, or None and what is wrong with it."""
    url = store.join(base_url, shard.index)
    if not store.exists(url):
        return None, "it is missing"
    try:
        read_index(base_url, shard)
        return pq.read_table(io.BytesIO(store.read_bytes(url))), ""
    except ShardError as error:
        return None, str(error).removeprefix(f"{url}: ").removesuffix(f"; {INDEX_CURE}")


def _check_idx(base_url: str, shard: Shard, index: pa.Table) -> str:
    """What is wrong with the offset index for others, "" when nothing is."""
    url = store.join(base_url, idx_name(shard.name))
    if not store.exists(url):
        return "it is missing"
    return "" if store.read_bytes(url) == idx_bytes(index) else "its offsets are not those of the shard"


def _check_tar(url: str, shard: Shard, index: pa.Table | None) -> tuple[str, tuple[str, ...]]:
    """What is wrong with the tar, and with which samples; ("", ()) when nothing is."""
    num_bytes = store.size(url)
    if num_bytes is None:
        return "it is missing", ()
    what = f"it has {num_bytes} bytes, the manifest says {shard.num_bytes}"
    if num_bytes == shard.num_bytes:
        found = _sha256_of(url, num_bytes)
        if found == shard.sha256:
            return "", ()
        what = f"sha256 is {found}, the manifest says {shard.sha256}"
    if index is None:
        return f"{what}; which samples are damaged cannot be told without its index", ()
    spans = zip(index["offset"].to_pylist(), index["size"].to_pylist(), strict=True)
    expected = zip(index["key"].to_pylist(), index["sha256"].to_pylist(), strict=True)
    damaged = tuple(
        key
        for (key, sha256), data in zip(expected, read_spans(url, num_bytes, spans), strict=True)
        if hashlib.sha256(data).hexdigest() != sha256
    )
    return what if damaged else f"{what}; every sample is intact, the damage is at the end of the archive", damaged


def check_shard(base_url: str, shard: Shard, url: str = "") -> list[Damage]:
    """Compare a shard, its index and its offset index for others with the manifest's entry.

    `url`: of a tar that lies elsewhere than its index; then there is no offset index for others.
    """
    index, index_fault = _check_index(base_url, shard)
    tar_fault, samples = _check_tar(url or store.join(base_url, shard.name), shard, index)
    idx_fault = "" if index is None or url else _check_idx(base_url, shard, index)
    faults = ((shard.name, tar_fault, samples), (shard.index, index_fault, ()), (idx_name(shard.name), idx_fault, ()))
    return [Damage(shard=shard.name, file=file, samples=keys, what=what) for file, what, keys in faults if what]


def _checks(base_url: str, manifest: Manifest, processes: int) -> Iterator[tuple[Shard, list[Damage]]]:
    """Check shards in up to `processes` processes; results in the order in which they come."""
    shards = manifest.shards
    urls = [shard_url(manifest, base_url, shard) if manifest.shards_url else "" for shard in shards]
    num_bytes = sum(shard.num_bytes for shard in shards)
    processes = min(processes, len(shards), num_bytes // BYTES_PER_PROCESS)
    if processes <= 1:
        for shard, url in zip(shards, urls, strict=True):
            yield shard, check_shard(base_url, shard, url)
        return
    # spawn: clients of object stores run threads of their own, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {
            pool.submit(check_shard, base_url, shard, url): shard for shard, url in zip(shards, urls, strict=True)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _check_sizes(base_url: str, manifest: Manifest) -> str:
    """What is wrong with sizes.json, "" when nothing is."""
    url = store.join(base_url, SIZES_NAME)
    if not store.exists(url):
        return "it is missing"
    return "" if store.read_bytes(url) == sizes_bytes(manifest) else "its numbers are not the manifest's"


def _check_card(base_url: str, manifest: Manifest) -> str:
    """What is wrong with the card, "" when nothing is. It is for people, who may have written something into it."""
    url = store.join(base_url, CARD_NAME)
    if not store.exists(url):
        return "it is missing"
    return "" if manifest.sha256.encode() in store.read_bytes(url) else "it describes another data set"


def _strays(base_url: str, manifest: Manifest) -> list[str]:
    """Shards and indexes in the output that the manifest does not name."""
    known = {name for shard in manifest.shards for name in (shard.name, shard.index, idx_name(shard.name))}
    return [
        name for name in store.list_names(base_url) if name.endswith((".tar", ".parquet", ".idx")) and name not in known
    ]


def verify(config: BuildConfig) -> list[Damage]:
    """Read every shard of the output's manifest back; the damages, in the order of the shards.

    Shards the manifest does not name are reported in the log only: they belie nothing. ManifestError when there is
    no manifest, or when it contradicts itself.
    """
    base_url = config.output
    manifest = load_manifest(base_url)
    found: dict[str, list[Damage]] = {}
    with Progress("verify", unit="bytes", total=manifest.num_bytes) as progress:
        for shard, of_shard in _checks(base_url, manifest, config.processes):
            found[shard.name] = of_shard
            num_damaged = sum(map(bool, found.values()))
            progress.advance(shard.num_bytes, note=f"{num_damaged} of {len(found)} shards damaged")
    damages = [damage for shard in manifest.shards for damage in found[shard.name]]
    for name, check in ((SIZES_NAME, _check_sizes), (CARD_NAME, _check_card)):
        if manifest.shards_url is None and (what := check(base_url, manifest)):
            damages.append(Damage(shard=name, file=name, samples=(), what=what))
    for damage in damages:
        log.error("%s", damage)
    for name in _strays(base_url, manifest):
        log.warning("%s: the manifest does not name it; whoever reads the folder by a pattern reads it too", name)
    return damages
