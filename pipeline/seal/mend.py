"""Repair: rebuild exactly what is damaged in a sealed data set, byte for byte as it was.

In: the damages `pipeline.seal.verify` found. Out: the same files as a fresh build wrote, or a ShardError saying what
cannot be had any more. How a shard is rebuilt is the part of `pipeline.seal.rebuild`; here is decided which ones, and
what describes the whole (the manifest, sizes.json, the card) is made again. No file is replaced by one that is not as
the manifest says, so the data set is never worse than before, and a killed repair is run again.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError, InputError, ManifestError, ShardError
from pipeline.manifest import MANIFEST_NAME, Manifest, Shard, load_manifest
from pipeline.seal.card import CARD_NAME, card_bytes, count_licenses
from pipeline.seal.offsets import SIZES_NAME, idx_bytes, idx_name, sizes_bytes
from pipeline.seal.rebuild import fetch_lost, inspect, rebuild
from pipeline.seal.retry import retry_failed
from pipeline.seal.seal import finish
from pipeline.seal.verify import verify
from pipeline.selection.selection import read_funnel

__all__ = ["repair", "retry_failed"]

log = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 16
"""Shards whose lost pictures are fetched together; the samples of that many are held in memory."""
_MOST_NAMED = 10


def _as_sealed(config: BuildConfig, manifest: Manifest) -> BuildConfig:
    """The settings with those by which the data set's pictures were taken."""
    sealed = manifest.settings
    if config.is_sample and config.dataset == "yfcc" and sealed.get("dataset") != "yfcc":
        # Called with the output alone. Rows are not read again, but such a data set must have some.
        config = replace(config, dataset=sealed["dataset"], metadata=(config.output,))
    if sealed.get("dataset") != config.dataset:
        raise ConfigError(
            f"{config.output}: is a data set of --dataset {sealed.get('dataset')}, the settings say {config.dataset}; "
            "pass the settings it was built with"
        )
    max_aspect = float("inf") if sealed["max_aspect"] is None else sealed["max_aspect"]
    limits: dict[str, Any] = {name: sealed[name] for name in ("resize", "min_side", "max_pixels")}
    return replace(config, **limits, max_aspect=max_aspect)


def _mend_card(config: BuildConfig, manifest: Manifest) -> None:
    licenses: Counter[tuple[str, str]] = Counter()
    for shard in manifest.shards:
        data = store.read_bytes(store.join(config.output, shard.index))
        licenses.update(count_licenses(pq.read_table(BytesIO(data), columns=["license", "license_url"])))
    store.write_bytes(store.join(config.output, CARD_NAME), card_bytes(manifest, licenses))


def _manifest(config: BuildConfig, work: Path, data_name: str | None) -> Manifest:
    """The output's manifest; a lost or unreadable one is made again from the work folder."""
    try:
        manifest = load_manifest(config.output)
        if manifest.shards_url is None:
            return manifest
        raise InputError(
            f"{config.output}: its tars are those of others, in {manifest.shards_url}; fetch damaged ones again and "
            "run slip index with the same --output"
        )
    except ManifestError as error:
        funnel = read_funnel(work)
        if funnel is None:
            raise ManifestError(
                f"{error}; {work} holds no finished selection to make it again from: pass the --work of the build, or "
                f"put {MANIFEST_NAME} back from a copy"
            ) from None
    log.warning("%s: making %s again from %s", config.output, MANIFEST_NAME, work)
    return finish(config, work, funnel, data_name=data_name)


def _mend_shards(
    config: BuildConfig, work: Path, shards: Sequence[Shard], files: dict[str, set[str]], proxy: str | None
) -> list[str]:
    """Mend the damaged files of these shards; returns what stands in the way of the others."""
    jobs, problems = [], []
    for shard in shards:
        if files[shard.name] == {idx_name(shard.name)}:
            index = pq.read_table(BytesIO(store.read_bytes(store.join(config.output, shard.index))))
            store.write_bytes(store.join(config.output, idx_name(shard.name)), idx_bytes(index))
            continue
        try:
            jobs.append(inspect(config, work, shard, frozenset(files[shard.name])))
        except (ShardError, InputError) as error:
            problems.append(str(error))
    folders = fetch_lost(config, work, jobs, proxy)
    for job in jobs:
        try:
            gone = rebuild(config, work, job, folders.get(job.unit))
        except ShardError as error:
            problems.append(str(error))
            continue
        if gone:
            named = ", ".join(gone[:_MOST_NAMED]) + (
                f" and {len(gone) - _MOST_NAMED} more" if gone[_MOST_NAMED:] else ""
            )
            problems.append(
                f"{store.join(config.output, job.shard.name)}: cannot be rebuilt as it was, {len(gone)} of its "
                f"pictures cannot be had again: {named}; put the shard back from a copy, or delete it and run the "
                "build again for a data set without them"
            )
        else:
            log.info("repair: %s is whole again (%s)", job.shard.name, ", ".join(sorted(job.files)))
    return problems


def repair(config: BuildConfig, work: Path, *, proxy: str | None, data_name: str | None = None) -> Manifest:
    """Rebuild what is damaged in the output, byte for byte; returns its manifest.

    Everything that can be mended is, before a ShardError names what cannot: pictures their source does not give
    any more as it did. `proxy` and `data_name` are those of the embedded sample's build.
    """
    manifest = _manifest(config, work, data_name)
    files: dict[str, set[str]] = {}
    for damage in verify(config):
        files.setdefault(damage.shard, set()).add(damage.file)
    if not files:
        log.info("repair: nothing is damaged")
        return manifest
    config = _as_sealed(config, manifest)
    damaged = [shard for shard in manifest.shards if shard.name in files]
    problems: list[str] = []
    for first in range(0, len(damaged), _SHARDS_AT_ONCE):
        problems += _mend_shards(config, work, damaged[first : first + _SHARDS_AT_ONCE], files, proxy)
    shutil.rmtree(work / "repair", ignore_errors=True)
    if SIZES_NAME in files:
        store.write_bytes(store.join(config.output, SIZES_NAME), sizes_bytes(manifest))
    if problems:
        raise ShardError("\n".join(problems))
    if CARD_NAME in files:
        _mend_card(config, manifest)
    return manifest
