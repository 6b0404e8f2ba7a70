"""Rebuild one damaged shard of a sealed data set, byte for byte as it was.

In: a shard's manifest entry and which of its files are damaged. Out: those files again, or the pictures that cannot
be had as they were. A shard follows from its samples and their pictures: the samples are read from its index, or,
when that is damaged, from the intact tar or the work folder; pictures are taken from the damaged shard where their
digests are right, and only the others are fetched again. Nothing is put before its digest is the manifest's. Which
shards are rebuilt is `pipeline.seal.mend`'s part.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ShardError
from pipeline.fetch.fetch import fetch_again
from pipeline.fetch.fetched import again_tar, outcomes_path, read_again
from pipeline.manifest import Shard
from pipeline.records import SELECTION_SCHEMA
from pipeline.seal.offsets import idx_bytes, idx_name
from pipeline.seal.retry import remove_again
from pipeline.seal.seal import local_part, write_unless_equal
from pipeline.seal.shard import BuiltShard, Sample, build_shard, image_offsets
from pipeline.seal.shard_reader import PictureFile, read_spans
from pipeline.seal.shard_samples import read_selection, samples_of_index, samples_of_tar, samples_of_unit
from pipeline.selection.selection import part_path
from pipeline.selection.variants import bucket_keys

log = logging.getLogger(__name__)

_Outcomes = dict[str, dict[str, Any]]
"""What became of the pictures that were asked for again, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedShard:
    """One damaged shard and what is known of it."""

    shard: Shard
    unit: int
    files: frozenset[str]
    """Names of its damaged files."""
    samples: list[Sample]
    offsets: list[int]
    """Where in the tar each sample's picture lies."""
    num_bytes: int
    """Of the tar as it is; 0 when it is missing."""
    lost: frozenset[int]
    """Samples whose pictures are damaged, by number in the shard."""


def _unit_of(shard: Shard) -> int:
    return int(shard.name.removesuffix(".tar"))


def _has_unit(work: Path, unit: int) -> bool:
    """Whether the work folder still knows the unit's rows."""
    return part_path(work, unit).exists() and outcomes_path(work, unit).exists()


def _samples(config: BuildConfig, work: Path, shard: Shard, files: frozenset[str]) -> list[Sample]:
    """The samples of a damaged shard, from what is left of it."""
    url, index_url = (store.join(config.output, name) for name in (shard.name, shard.index))
    if shard.index not in files:
        return samples_of_index(store.read_bytes(index_url), index_url)
    if shard.name not in files:
        return samples_of_tar(url, shard.num_bytes)
    if _has_unit(work, _unit_of(shard)):
        return [sample for sample, _ in samples_of_unit(work, _unit_of(shard))]
    raise ShardError(
        f"{url}: shard and index are both damaged and {work} knows nothing of them; put back one of the two from a "
        f"copy, or pass the --work of the build, then run --stage repair again"
    )


def inspect(config: BuildConfig, work: Path, shard: Shard, files: frozenset[str]) -> DamagedShard:
    """Look which pictures of a damaged shard are lost."""
    samples = _samples(config, work, shard, files)
    offsets = image_offsets(samples, is_resized=config.resize is not None)
    url = store.join(config.output, shard.name)
    num_bytes = store.size(url) or 0
    lost = set()
    if shard.name in files:
        spans = zip(offsets, (sample.image_size for sample in samples), strict=True)
        for number, picture in enumerate(read_spans(url, num_bytes, spans)):
            if sha256(picture).hexdigest() != samples[number].image_sha256:
                lost.add(number)
    return DamagedShard(
        shard=shard,
        unit=_unit_of(shard),
        files=files,
        samples=samples,
        offsets=offsets,
        num_bytes=num_bytes,
        lost=frozenset(lost),
    )


def _make_selection(config: BuildConfig, folder: Path, job: DamagedShard) -> None:
    """Write a selection part for fetching from what the shard's index says of its samples."""
    is_yfcc = config.dataset == "yfcc"
    names = bucket_keys([sample.url for sample in job.samples]) if is_yfcc else [""] * len(job.samples)
    rows = [
        {name: getattr(sample, name, None) for name in SELECTION_SCHEMA.names}
        | {
            "row": number,
            "line": -1,
            "photo_id": int(sample.key) if is_yfcc and sample.key.isdecimal() else -1,
            "bucket_key": bucket_key,
        }
        for number, (sample, bucket_key) in enumerate(zip(job.samples, names, strict=True))
    ]
    path = part_path(folder, job.unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), path)


def _positions(folder: Path, unit: int) -> dict[str, int]:
    """Where in a unit's selection each key is; {} when there is no such selection."""
    if not part_path(folder, unit).exists():
        return {}
    return {key: position for position, key in enumerate(read_selection(folder, unit)["key"].to_pylist())}


def fetch_lost(config: BuildConfig, work: Path, jobs: Sequence[DamagedShard], proxy: str | None) -> dict[int, Path]:
    """Ask again for the lost pictures; in which folder each unit's answers are."""
    scratch = work / "repair"
    wanted: dict[Path, dict[int, list[int]]] = {work: {}, scratch: {}}
    folders: dict[int, Path] = {}
    for job in jobs:
        if not job.lost:
            continue
        keys = [job.samples[number].key for number in sorted(job.lost)]
        folder, positions = work, _positions(work, job.unit)
        if not positions.keys() >= set(keys):
            _make_selection(config, scratch, job)
            folder, positions = scratch, _positions(scratch, job.unit)
        wanted[folder][job.unit] = sorted(positions[key] for key in keys)
        folders[job.unit] = folder
        remove_again(folder, job.unit)
    for folder, of_folder in wanted.items():
        if of_folder:
            log.info("repair: fetching %s pictures again", f"{sum(map(len, of_folder.values())):,}")
            for _ in fetch_again(config, folder, of_folder, proxy=proxy):
                pass
    return folders


def _answers(job: DamagedShard, folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The outcome of each lost picture by key, and what cannot be had as it was."""
    outcomes = {row["key"]: row for row in read_again(folder, job.unit).to_pylist()}
    gone = []
    for number in sorted(job.lost):
        sample = job.samples[number]
        outcome = outcomes.get(sample.key, {"reason": "not_asked", "detail": "", "sha256": ""})
        if outcome["reason"]:
            gone.append(f"{sample.key} ({outcome['reason']} {outcome['detail']}; {sample.url})")
        elif outcome["sha256"] != sample.image_sha256:
            gone.append(f"{sample.key} (the source gives another picture; {sample.url})")
    return outcomes, gone


def _pictures(
    config: BuildConfig, job: DamagedShard, folder: Path | None, outcomes: dict[str, dict[str, Any]]
) -> Iterator[bytes]:
    """Each sample's picture: from the shard where it is intact there, else as fetched again."""
    kept = [number for number in range(len(job.samples)) if number not in job.lost]
    spans = ((job.offsets[number], job.samples[number].image_size) for number in kept)
    from_shard = read_spans(store.join(config.output, job.shard.name), job.num_bytes, spans)
    again = None if folder is None else PictureFile(again_tar(folder, job.unit), "run --stage repair again")
    try:
        for number, sample in enumerate(job.samples):
            if number in job.lost:
                assert again is not None
                place = outcomes[sample.key]["offset"]
                yield again.read(sample.key, place, sample.image_size, sample.image_sha256)
            else:
                yield next(from_shard)
    finally:
        if again is not None:
            again.close()


def _check_built(config: BuildConfig, job: DamagedShard, built: BuiltShard) -> None:
    """Raise ShardError unless what was rebuilt is what the manifest says."""
    url = store.join(config.output, job.shard.name)
    if built.shard.sha256 != job.shard.sha256:
        raise ShardError(
            f"{url}: rebuilt it has sha256 {built.shard.sha256}, the manifest says {job.shard.sha256}; its index or "
            "the work folder belongs to another build, nothing was changed: put the shard back from a copy"
        )
    if job.shard.index in job.files and built.shard.index_sha256 != job.shard.index_sha256:
        raise ShardError(
            f"{store.join(config.output, job.shard.index)}: rebuilt it has sha256 {built.shard.index_sha256}, the "
            f"manifest says {job.shard.index_sha256}; another version than pyarrow {pa.__version__} wrote it, repair "
            "with that one"
        )


def rebuild(config: BuildConfig, work: Path, job: DamagedShard, folder: Path | None) -> list[str]:
    """Put the damaged files of one shard; returns the pictures that cannot be had as they were.

    `folder` is where `fetch_lost` left the lost pictures, None when none is lost.
    """
    outcomes: _Outcomes = {}
    if folder is not None:
        outcomes, gone = _answers(job, folder)
        if gone:
            return gone
    with local_part(work / "repair", job.shard.name) as part:
        pairs = zip(job.samples, _pictures(config, job, folder, outcomes), strict=True)
        built = build_shard(job.unit, pairs, part, is_resized=config.resize is not None)
        _check_built(config, job, built)
        if job.shard.name in job.files:
            store.move_file(part, store.join(config.output, job.shard.name))
    if job.shard.index in job.files:
        store.write_bytes(store.join(config.output, job.shard.index), built.index_data)
    write_unless_equal(store.join(config.output, idx_name(job.shard.name)), idx_bytes(built.index))
    if folder is not None:
        remove_again(folder, job.unit)
    return []
