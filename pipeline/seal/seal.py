"""Pictures and captions of a unit become a shard: a tar with fixed bytes, its indexes, its manifest entry.

In: a unit's selection, outcomes and fetched tar. Out: OUTPUT/NNNNN.tar, .idx and .parquet, then
WORK/sealed/NNNNN.json; once every unit is sealed, OUTPUT/sizes.json, README.md and, last, manifest.json. The same
input gives the same bytes on any machine. A sealed unit's fetched tar is removed, so that little local disk is
needed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import InputError, RejectionLimitError, ShardError
from pipeline.fetch.fetched import fetched_tar, outcomes_path, read_outcomes
from pipeline.manifest import MANIFEST_NAME, Manifest, Shard, check_sums, write_manifest
from pipeline.records import Funnel, Reason, unit_name
from pipeline.seal.card import CARD_NAME, LicenseCounts, card_bytes, count_licenses
from pipeline.seal.offsets import SIZES_NAME, idx_bytes, idx_name, sizes_bytes
from pipeline.seal.shard import build_shard
from pipeline.seal.shard_reader import PictureFile
from pipeline.seal.shard_samples import refetch_advice, samples_of_unit
from pipeline.selection.selection import num_units
from pipeline.store_faults import translated

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedUnit:
    """What is noted of a unit when it was sealed."""

    shard: Shard | None
    """None when no picture of the unit is good: it has no shard."""
    licenses: LicenseCounts


def _entry_path(work: Path, unit: int) -> Path:
    return work / "sealed" / f"{unit_name(unit)}.json"


def read_entry(work: Path, unit: int) -> SealedUnit | None:
    """What was noted when the unit was sealed; None when it was not."""
    path = _entry_path(work, unit)
    if not path.exists():
        return None
    data = store.read_bytes(str(path))
    try:
        content = json.loads(data)
        shard = None if content["shard"] is None else Shard(**content["shard"])
        licenses = {(name, url): int(count) for name, url, count in content["licenses"]}
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(
            f"{path}: not the entry of a sealed unit ({error}); delete it and run the build again"
        ) from None
    return SealedUnit(shard=shard, licenses=licenses)


def _write_entry(work: Path, unit: int, sealed: SealedUnit) -> None:
    content = {
        "shard": None if sealed.shard is None else asdict(sealed.shard),
        "licenses": [[*license, count] for license, count in sorted(sealed.licenses.items())],
    }
    store.write_bytes(str(_entry_path(work, unit)), (json.dumps(content, sort_keys=True, indent=1) + "\n").encode())


def is_sealed(config: BuildConfig, work: Path, unit: int) -> bool:
    """Whether the unit is finished: its entry is written, the output still holds shard and index, nothing waits.

    A unit whose fetched tar is there is not: that is removed last, and comes back when a retry gained pictures.
    """
    entry = read_entry(work, unit)
    if entry is None or fetched_tar(work, unit).exists():
        return False
    shard = entry.shard
    return shard is None or (
        store.size(store.join(config.output, shard.name)) == shard.num_bytes
        and store.exists(store.join(config.output, shard.index))
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


@contextmanager
def local_part(folder: Path, name: str) -> Iterator[Path]:
    """A local file for one writer, removed in the end; what killed writers of this machine left goes too."""
    with translated(str(folder), "write"):
        folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{name}.part-{socket.gethostname()}-"
    for left in folder.glob(f"{prefix}*"):
        if not Path(f"/proc/{left.name[len(prefix) :]}").exists() and Path("/proc/self").exists():
            left.unlink(missing_ok=True)
    part = folder / f"{prefix}{os.getpid()}"
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink()


def seal_unit(config: BuildConfig, work: Path, unit: int) -> Shard | None:
    """Make the unit's shard, or return what was made before; None when no picture of the unit is good."""
    tar = fetched_tar(work, unit)
    if is_sealed(config, work, unit):
        entry = read_entry(work, unit)
        assert entry is not None
        return entry.shard
    samples = samples_of_unit(work, unit)
    if not samples:
        _write_entry(work, unit, SealedUnit(shard=None, licenses={}))
        tar.unlink(missing_ok=True)
        return None
    pictures = PictureFile(tar, refetch_advice(work, unit))
    with local_part(work / "sealed", f"{unit_name(unit)}.tar") as part:
        try:
            built = build_shard(
                unit,
                (
                    (sample, pictures.read(sample.key, place.offset, sample.image_size, sample.image_sha256))
                    for sample, place in samples
                ),
                part,
                is_resized=config.resize is not None,
            )
        finally:
            pictures.close()
        shard = built.shard
        store.move_file(part, store.join(config.output, shard.name))
        store.write_bytes(store.join(config.output, idx_name(shard.name)), idx_bytes(built.index))
        store.write_bytes(store.join(config.output, shard.index), built.index_data)
        _write_entry(work, unit, SealedUnit(shard=shard, licenses=count_licenses(built.index)))
    tar.unlink()
    return shard


def _sealed_units(config: BuildConfig, work: Path) -> list[SealedUnit]:
    """The entries of all units, in order; an error when one is missing or its files are."""
    present = set(store.list_names(config.output))
    found, missing = [], []
    for unit in range(num_units(work)):
        entry = read_entry(work, unit)
        if entry is None or (entry.shard is not None and not {entry.shard.name, entry.shard.index} <= present):
            missing.append(unit_name(unit))
        else:
            found.append(entry)
    if missing:
        listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise ShardError(
            f"{config.output}: not all units are sealed, missing are {listed}; run the build with --stage all"
        )
    return found


def merge_funnel(work: Path, selected: Funnel) -> Funnel:
    """The funnel of the whole build: what selection rejected and what fetching rejected."""
    fetched: Counter[str] = Counter()
    for unit in range(num_units(work)):
        for entry in pc.value_counts(read_outcomes(work, unit)["reason"]).to_pylist():
            fetched[entry["values"]] += entry["counts"]
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


def _settings(config: BuildConfig) -> dict[str, Any]:
    """What decided the content of the data set, as the manifest says it."""
    settings: dict[str, Any] = {"dataset": config.dataset, "variant": config.chosen_variant}
    for name in ("captions", "resize", "samples_per_shard", "min_side", "max_pixels", "keep_duplicates"):
        settings[name] = getattr(config, name)
    settings["prefer"] = list(config.prefer)
    settings["max_aspect"] = config.max_aspect if math.isfinite(config.max_aspect) else None
    if config.chosen_variant == "english":
        settings["caption_fields"] = config.caption_fields
    return settings


def write_unless_equal(url: str, data: bytes) -> None:
    """Write a file of the output; leave it alone when it already says the same."""
    if not store.exists(url) or store.read_bytes(url) != data:
        store.write_bytes(url, data)


def finish(config: BuildConfig, work: Path, funnel: Funnel, *, data_name: str | None = None) -> Manifest:
    """Check that every unit is sealed and few enough rows were rejected; write what describes them, the manifest last.

    `data_name` overrides what the settings say: those of the embedded sample name its files by now.
    """
    variant = data_name or config.data_name
    whole = merge_funnel(work, funnel)
    _check_rejections(config, funnel, whole)
    units = _sealed_units(config, work)
    shards = tuple(unit.shard for unit in units if unit.shard is not None)
    manifest = Manifest(
        name=f"yfcc15m-{variant}" if config.dataset == "yfcc" else variant,
        variant=variant,
        num_samples=sum(shard.num_samples for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        funnel={
            "rows": whole.rows,
            "kept": whole.kept,
            "rejected": {str(reason): count for reason, count in whole.rejected.items()},
        },
        settings=_settings(config),
        shards=shards,
    )
    check_sums(manifest, store.join(config.output, MANIFEST_NAME))
    licenses: Counter[tuple[str, str]] = Counter()
    for unit in units:
        licenses.update(unit.licenses)
    write_unless_equal(store.join(config.output, SIZES_NAME), sizes_bytes(manifest))
    write_unless_equal(store.join(config.output, CARD_NAME), card_bytes(manifest, licenses))
    write_manifest(manifest, config.output)
    return manifest
