"""Pictures and captions of a unit become a shard: a tar with fixed bytes, its index, its manifest entry.

In: a unit's selection, outcomes and fetched tar. Out: OUTPUT/NNNNN.tar, OUTPUT/NNNNN.parquet, then
WORK/sealed/NNNNN.json; once every unit is sealed, OUTPUT/manifest.json. The same input gives the same
bytes on any machine. A sealed unit's fetched tar is removed, so that little local disk is needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import InputError, RejectionLimitError, ShardError
from pipeline.fetched import fetched_tar, outcomes_path, read_outcomes
from pipeline.manifest import Manifest, Shard, write_manifest
from pipeline.records import SELECTION_SCHEMA, Funnel, Reason, unit_name
from pipeline.selection import num_units, part_path
from pipeline.shard import MAX_NAME_BYTES, TarWriter, index_bytes, write_sample
from pipeline.store_faults import translated

_log = logging.getLogger(__name__)

Variant = Literal["openai", "sample", "local"]

# WebDataset splits a member's name at its first dot and takes what is left of it for the key.
_BAD_KEY = re.compile(r"[./\\\x00-\x1f\x7f]")
_LONGEST_SUFFIX = len(".webp")


def variant_of(config: BuildConfig) -> Variant:
    """Which data set a configuration builds, as the user gave it."""
    if config.source == "local":
        return "local"
    return "openai" if config.metadata else "sample"


def _entry_path(work: Path, unit: int) -> Path:
    return work / "sealed" / f"{unit_name(unit)}.json"


def _read_entry(work: Path, unit: int) -> Shard | Literal["empty"] | None:
    """What was noted when the unit was sealed; None when it was not."""
    path = _entry_path(work, unit)
    if not path.exists():
        return None
    data = store.read_bytes(str(path))
    try:
        content = json.loads(data)
        return "empty" if content == {"empty": True} else Shard(**content)
    except (ValueError, TypeError) as error:
        raise ShardError(
            f"{path}: not the entry of a sealed unit ({error}); delete it and run the build again"
        ) from None


def is_sealed(config: BuildConfig, work: Path, unit: int) -> bool:
    """Whether the unit is finished: its entry is written and the output still holds shard and index."""
    entry = _read_entry(work, unit)
    if entry is None or entry == "empty":
        return entry == "empty"
    return store.size(store.join(config.output, entry.name)) == entry.num_bytes and store.exists(
        store.join(config.output, entry.index)
    )


def units_to_build(config: BuildConfig, work: Path, units: Iterable[int]) -> list[int]:
    """Those of `units` that are not sealed yet, ready for fetching.

    A unit whose shard was deleted from the output after its fetched tar had been removed must be fetched
    again: its outcomes are removed here, so that fetching does not take it for finished.
    """
    missing = [unit for unit in units if not is_sealed(config, work, unit)]
    for unit in missing:
        if outcomes_path(work, unit).exists() and not fetched_tar(work, unit).exists():
            _log.warning("%s is gone and unit %d is not sealed: fetching it again", fetched_tar(work, unit), unit)
            outcomes_path(work, unit).unlink()
    return missing


def _read_selection(work: Path, unit: int) -> pa.Table:
    path = part_path(work, unit)
    with translated(str(path), "read"):
        return pq.read_table(path, schema=SELECTION_SCHEMA)


def _good_rows(work: Path, unit: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Selection row and outcome of every good picture, by key."""
    selection, outcomes = _read_selection(work, unit), read_outcomes(work, unit)
    if selection.column("key").to_pylist() != outcomes.column("key").to_pylist():
        raise ShardError(
            f"{outcomes_path(work, unit)}: its {outcomes.num_rows} rows are not the {selection.num_rows} of "
            f"{part_path(work, unit)}; {_refetch(work, unit)}"
        )
    pairs = zip(selection.to_pylist(), outcomes.to_pylist(), strict=True)
    good = sorted((pair for pair in pairs if pair[1]["reason"] == ""), key=lambda pair: str(pair[0]["key"]))
    previous = None
    for row, _ in good:
        key = row["key"]
        if not key or _BAD_KEY.search(key) or len(key.encode()) > MAX_NAME_BYTES - _LONGEST_SUFFIX:
            raise InputError(
                f"{part_path(work, unit)}: key {key!r:.200} cannot name a sample; expected 1 to "
                f"{MAX_NAME_BYTES - _LONGEST_SUFFIX} bytes without dots, slashes and control characters"
            )
        if key == previous:
            raise InputError(f"{part_path(work, unit)}: key {key!r} occurs twice; keys must be unique")
        previous = key
    return good


def _refetch(work: Path, unit: int) -> str:
    return f"delete {fetched_tar(work, unit).with_suffix('.*')} and run the build again"


class _FetchedPictures:
    """The pictures of a fetched tar by member name, each compared with its digest."""

    def __init__(self, work: Path, unit: int) -> None:
        self._path = fetched_tar(work, unit)
        self._advice = _refetch(work, unit)
        if not self._path.exists():
            raise ShardError(f"{self._path}: the unit's pictures are gone; {self._advice}")
        with translated(str(self._path), "read"):
            try:
                self._tar = tarfile.open(self._path, "r:")  # noqa: SIM115 (closed by close)
                self._members = {member.name: member for member in self._tar}
            except tarfile.TarError as error:
                raise ShardError(f"{self._path}: not a tar ({error}); {self._advice}") from error

    def read(self, outcome: dict[str, Any]) -> bytes:
        name = outcome["member"]
        if name not in self._members:
            raise ShardError(f"{self._path}: no member {name!r} for key {outcome['key']}; {self._advice}")
        with translated(str(self._path), "read"):
            try:
                file = self._tar.extractfile(self._members[name])
                data = b"" if file is None else file.read()
            except tarfile.TarError as error:
                raise ShardError(f"{self._path}: member {name} cannot be read ({error}); {self._advice}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != outcome["sha256"]:
            raise ShardError(
                f"{self._path}: member {name} of key {outcome['key']} has sha256 {found}, fetching noted "
                f"{outcome['sha256']}; {self._advice}"
            )
        return data

    def close(self) -> None:
        self._tar.close()


def _write_tar(
    work: Path, unit: int, good: list[tuple[dict[str, Any], dict[str, Any]]], path: Path
) -> tuple[list[dict[str, Any]], str, int]:
    """Write the unit's tar to a local file; returns the index rows, the digest and the size."""
    pictures = _FetchedPictures(work, unit)
    try:
        with path.open("wb") as file:
            tar = TarWriter(file)
            rows = [write_sample(tar, row, outcome, pictures.read(outcome)) for row, outcome in good]
            return rows, tar.finish(), tar.offset
    finally:
        pictures.close()


def seal_unit(config: BuildConfig, work: Path, unit: int) -> Shard | None:
    """Make the unit's shard, or return what was made before; None when no picture of the unit is good."""
    entry_path, name = _entry_path(work, unit), unit_name(unit)
    if is_sealed(config, work, unit):
        entry = _read_entry(work, unit)
        fetched_tar(work, unit).unlink(missing_ok=True)
        return None if entry == "empty" else entry
    good = _good_rows(work, unit)
    if not good:
        store.write_bytes(str(entry_path), b'{"empty": true}\n')
        fetched_tar(work, unit).unlink(missing_ok=True)
        return None
    part = entry_path.with_name(f"{name}.tar.part")
    try:
        with translated(str(part), "write"):
            part.parent.mkdir(parents=True, exist_ok=True)
            rows, sha256, num_bytes = _write_tar(work, unit, good, part)
        index = index_bytes(rows)
        shard = Shard(
            name=f"{name}.tar",
            num_samples=len(rows),
            num_bytes=num_bytes,
            sha256=sha256,
            index=f"{name}.parquet",
            index_sha256=hashlib.sha256(index).hexdigest(),
        )
        store.put_file(part, store.join(config.output, shard.name))
        store.write_bytes(store.join(config.output, shard.index), index)
        store.write_bytes(str(entry_path), (json.dumps(asdict(shard), sort_keys=True, indent=1) + "\n").encode())
    finally:
        part.unlink(missing_ok=True)
    fetched_tar(work, unit).unlink(missing_ok=True)
    return shard


def _sealed_shards(config: BuildConfig, work: Path) -> tuple[Shard, ...]:
    """The entries of all units, in order; an error when one is missing or its files are."""
    present = set(store.list_names(config.output))
    shards, missing = [], []
    for unit in range(num_units(work)):
        entry = _read_entry(work, unit)
        if entry is None or (entry != "empty" and not {entry.name, entry.index} <= present):
            missing.append(unit_name(unit))
        elif entry != "empty":
            shards.append(entry)
    if missing:
        listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise ShardError(
            f"{config.output}: not all units are sealed, missing are {listed}; run the build with --stage all"
        )
    return tuple(shards)


def merge_funnel(work: Path, selected: Funnel) -> Funnel:
    """The funnel of the whole build: what selection rejected and what fetching rejected."""
    fetched: Counter[str] = Counter()
    for unit in range(num_units(work)):
        fetched.update(read_outcomes(work, unit).column("reason").to_pylist())
    if fetched.total() != selected.kept:
        raise ShardError(
            f"{work}: {selected.kept} rows were selected, {fetched.total()} have an outcome; delete this folder "
            "and run the build again"
        )
    kept = fetched.pop("", 0)
    rejected = Counter({reason: count for reason, count in selected.rejected.items() if count})
    rejected.update({Reason(reason): count for reason, count in fetched.items()})
    return Funnel(rows=selected.rows, rejected=dict(rejected), kept=kept)


def _check_rejections(config: BuildConfig, selected: Funnel, whole: Funnel) -> None:
    rejected = selected.kept - whole.kept
    reasons = {reason: count - selected.rejected.get(reason, 0) for reason, count in whole.rejected.items()}
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()) if count)
    if selected.kept == 0:
        raise InputError(
            f"{config.output}: none of {selected.rows} rows was selected; do list and metadata belong together?"
        )
    if rejected > config.max_rejected * selected.kept:
        raise RejectionLimitError(
            f"{config.output}: {rejected} of {selected.kept} selected rows were rejected ({listed}), more than "
            f"--max-rejected {config.max_rejected} allows; no manifest was written. Find out why, or raise the limit"
        )
    if whole.kept == 0:
        raise InputError(f"{config.output}: no picture of {selected.kept} selected rows is good ({listed})")


def finish(config: BuildConfig, work: Path, funnel: Funnel, *, variant: Variant | None = None) -> Manifest:
    """Check that every unit is sealed and few enough rows were rejected; write manifest.json last.

    `variant` overrides what the settings say: those of the embedded sample name its files by now.
    """
    variant = variant or variant_of(config)
    whole = merge_funnel(work, funnel)
    _check_rejections(config, funnel, whole)
    shards = _sealed_shards(config, work)
    manifest = Manifest(
        name=variant if variant == "local" else f"yfcc15m-{variant}",
        variant=variant,
        num_samples=sum(shard.num_samples for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        funnel={
            "rows": whole.rows,
            "kept": whole.kept,
            "rejected": {str(reason): count for reason, count in whole.rejected.items()},
        },
        settings={
            "source": config.source,
            "samples_per_shard": config.samples_per_shard,
            "min_side": config.min_side,
            "max_pixels": config.max_pixels,
        },
        shards=shards,
    )
    write_manifest(manifest, config.output)
    return manifest
