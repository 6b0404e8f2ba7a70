"""The build from beginning to end: select, fetch, seal, report, each picked up where an earlier run left it.

In comes a `BuildConfig`; out goes a sealed data set at its output. What the stages do is their modules' part;
here is decided which run, over which units, with which settings, and when to stop.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError, InputError, RejectionLimitError, StoreError
from pipeline.fetch import fetch_units, read_outcomes
from pipeline.manifest import MANIFEST_NAME, Manifest, load_manifest
from pipeline.records import Funnel, Reason
from pipeline.report import is_current, write_report
from pipeline.sample import SampleFlickr, make_sample
from pipeline.seal import Variant, finish, seal_unit, units_to_build, variant_of
from pipeline.selection import num_units, read_funnel, select

log = logging.getLogger(__name__)

SAMPLE_SAMPLES_PER_SHARD = 256
"""The embedded sample is small; with the default for real data it would be a single shard."""
LIMIT_FROM_ROWS = 2000
"""Rows after which the share of rejections is looked at while fetching; fewer may mislead."""
_CONTENT_SETTINGS = ("source", "samples_per_shard", "min_side", "max_pixels")


def build(config: BuildConfig) -> Manifest | None:
    """Run the stages the settings ask for; the manifest, or None when a stage before sealing was asked for."""
    started = time.perf_counter()
    work = work_folder(config)
    with ExitStack() as stack:
        _prepare(config, work)
        stack.enter_context(_locked(work))
        proxy, variant = None, variant_of(config)
        if not config.metadata:
            config, photos = _with_sample(config, work.parent / "sample")
            proxy = stack.enter_context(SampleFlickr(photos)).proxy_url
        _check_settings(config, work)
        manifest = _run_stages(config, work, proxy, variant)
    if manifest is not None:
        _log_summary(config, manifest, time.perf_counter() - started)
    return manifest


def work_folder(config: BuildConfig) -> Path:
    """Where intermediate files go: beside a local output, else in ~/.cache under a name made from the output's URL."""
    if config.work is not None:
        return Path(config.work).expanduser().resolve()
    if store.is_local(config.output):
        output = Path(config.output.split("://", 1)[-1]).expanduser().resolve()
        return output.with_name(f"{output.name}_work")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    url = config.output.rstrip("/")
    return cache / "yfcc15m" / f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _prepare(config: BuildConfig, work: Path) -> None:
    """Find out now, not after hours, that something cannot be read or written."""
    for name in (*config.metadata, *filter(None, [config.subset_list])):
        if store.is_local(name) and not Path(name).expanduser().exists():
            raise InputError(f"{name}: no such file")
    if config.stage in {"all", "seal", "report"}:
        store.check_writable(config.output)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{work}: {error.strerror}; pass --work with a folder that can be written") from error


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the work folder for this build; the system lets go of it however the process ends."""
    path = work / "lock"
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; pass --work with a folder that can be written") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{work}: another build is at work here; wait for it, or pass another --work") from None
        yield


def _with_sample(config: BuildConfig, folder: Path) -> tuple[BuildConfig, Path]:
    """The settings for the embedded sample, which is generated unless it is there, and its photographs."""
    log.info("no --metadata: building the EMBEDDED SAMPLE, a small generated stand-in for Flickr, not YFCC15M")
    log.info("for the real thing: --metadata yfcc100m_dataset.bz2 --subset-list yfcc100m_subset_data.tsv --output URL")
    sample = make_sample(folder)
    default = {f.name: f.default for f in fields(BuildConfig)}["samples_per_shard"]
    chosen = config.samples_per_shard if config.samples_per_shard != default else SAMPLE_SAMPLES_PER_SHARD
    sampled = replace(
        config,
        metadata=(str(sample.metadata),),
        subset_list=str(sample.subset_list),
        samples_per_shard=chosen,
        output=_absolute(config.output),
    )
    log.info("the sample's rows, photographs and held-out labelled pictures are in %s", folder)
    return sampled, sample.photos


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if store.is_local(path) and "://" not in path else path


def _check_settings(config: BuildConfig, work: Path) -> None:
    """Refuse to go on in a work folder with settings that would mix two data sets; note them in a new one.

    Before a selection is finished nothing binds: a mistyped path is mended by typing it right.
    """
    settings = _content_settings(config)
    path = work / "config.json"
    if not path.exists() or read_funnel(work) is None:
        _check_output_is_free(config, work)
        store.write_bytes(str(path), (json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        earlier = json.loads(path.read_bytes())
    except ValueError:
        raise StoreError(f"{path}: not JSON; delete the folder {work} to start anew") from None
    changed = [name for name in sorted(settings | earlier) if settings.get(name) != earlier.get(name)]
    if changed:
        differences = "; ".join(f"{name} was {earlier.get(name)}, is {settings.get(name)}" for name in changed)
        raise ConfigError(
            f"{path}: an earlier build had other settings ({differences}); give the earlier ones to resume it, "
            f"or another --work and --output to build anew, or delete {work} and the output to start over"
        )


def _check_output_is_free(config: BuildConfig, work: Path) -> None:
    """Refuse to begin a build where another one's shards lie: overwriting them would belie their manifest."""
    if config.stage == "report":
        return
    found = [name for name in store.list_names(config.output) if name == MANIFEST_NAME or name.endswith(".tar")]
    if found:
        what = "a sealed data set" if MANIFEST_NAME in found else f"shards of another build ({found[0]} ...)"
        raise ConfigError(
            f"{config.output}: holds {what}, which {work} knows nothing of; to resume that build pass its --work, "
            "to build anew pass another --output or delete what is there"
        )


def _content_settings(config: BuildConfig) -> dict[str, Any]:
    """What decides the bytes of the data set, and where it goes."""
    settings: dict[str, Any] = {name: getattr(config, name) for name in _CONTENT_SETTINGS}
    settings["output"] = _absolute(config.output)
    files = {"metadata": config.metadata, "subset_list": tuple(filter(None, [config.subset_list]))}
    for name, paths in files.items():
        settings[name] = [_absolute(path) for path in paths]
        settings[f"{name}_bytes"] = [store.size(path) for path in paths]
    return settings


def _run_stages(config: BuildConfig, work: Path, proxy: str | None, variant: Variant) -> Manifest | None:
    if config.stage == "report":
        manifest = load_manifest(config.output)
        write_report(config, work, manifest)
        return manifest
    if config.stage in {"all", "select"}:
        funnel = select(config, work)
        log.info("select: %s of %s rows", f"{funnel.kept:,}", f"{funnel.rows:,}")
        if config.stage == "select":
            return None
    funnel = _finished_selection(work)
    units = range(num_units(work))
    if config.stage == "fetch":
        _fetch(config, work, units, proxy, then_seal=False)
        return None
    if config.stage == "seal":
        for unit in units:
            seal_unit(config, work, unit)
    else:
        _fetch(config, work, units, proxy, then_seal=True)
    manifest = finish(config, work, funnel, variant=variant)
    if config.stage == "all" and not is_current(config, manifest):
        write_report(config, work, manifest)
    return manifest


def _finished_selection(work: Path) -> Funnel:
    funnel = read_funnel(work)
    if funnel is None:
        raise InputError(f"{work}: the select stage has not finished; run --stage select (or all) first")
    return funnel


def _fetch(config: BuildConfig, work: Path, units: Sequence[int], proxy: str | None, *, then_seal: bool) -> None:
    """Fetch the units that are not sealed yet; `then_seal` seals each as it arrives, so little local disk is needed."""
    rejections = _Rejections(config.max_rejected)
    waiting = units_to_build(config, work, units)
    for unit in sorted(set(units) - set(waiting)):
        rejections.add(work, unit)
    if len(waiting) < len(units):
        log.info("%d of %d shards are sealed already", len(units) - len(waiting), len(units))
    with closing(fetch_units(config, work, waiting, proxy=proxy)) as fetched:
        for unit in fetched:
            rejections.add(work, unit)
            if then_seal:
                seal_unit(config, work, unit)


@dataclass(slots=True)
class _Rejections:
    """Counts outcomes and stops a build that loses too much, before it has downloaded everything."""

    max_rejected: float
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, work: Path, unit: int) -> None:
        """Count a unit's outcomes; RejectionLimitError when the share is above the limit."""
        for entry in pc.value_counts(read_outcomes(work, unit)["reason"]).to_pylist():
            self.reasons[entry["values"]] += entry["counts"]
        rows = self.reasons.total()
        rejected = rows - self.reasons[""]
        if rows >= LIMIT_FROM_ROWS and rejected > self.max_rejected * rows:
            most = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common(5) if reason)
            raise RejectionLimitError(
                f"{rejected:,} of {rows:,} rows fetched so far were rejected ({rejected / rows:.1%}; {most}), "
                f"--max-rejected allows {self.max_rejected:.1%}; find the cause, or raise the limit and run again"
            )


def _log_summary(config: BuildConfig, manifest: Manifest, elapsed_s: float) -> None:
    """The final table."""
    rejected = manifest.funnel["rejected"]
    rows = [("rows read", manifest.funnel["rows"])]
    rows += [(f"  {reason}", rejected[reason]) for reason in Reason if rejected.get(reason)]
    rows += [("samples", manifest.num_samples), ("shards", len(manifest.shards)), ("bytes", manifest.num_bytes)]
    for label, count in rows:
        log.info("%-20s %15s", label, f"{count:,}")
    log.info("manifest  %s (sha256 %s)", store.join(config.output, "manifest.json"), manifest.sha256)
    if store.exists(store.join(config.output, "report.html")):
        log.info("report    %s", store.join(config.output, "report.html"))
    log.info("took %.1f s, %.0f samples/s", elapsed_s, manifest.num_samples / max(elapsed_s, 1e-9))
