"""The build from beginning to end: select, fetch, seal, report, each picked up where an earlier run left it.

In comes a `BuildConfig`; out goes a sealed data set at its output. What the stages do is their modules' part;
here is decided which run, over which units, and when to stop.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pyarrow.compute as pc

from pipeline import store
from pipeline.config import DEFAULT_OUTPUT, BuildConfig
from pipeline.errors import ConfigError, InputError, RejectionLimitError, ShardError
from pipeline.executors.executors import Executor, check_executor, open_executor
from pipeline.fetch.duplicates import Duplicates
from pipeline.fetch.fetched import read_outcomes
from pipeline.lease import Lease, hold
from pipeline.manifest import Manifest, load_manifest, manifest_url
from pipeline.metadata.ingest import ingest
from pipeline.records import Funnel, Reason
from pipeline.report.estimate import print_estimate
from pipeline.report.report import is_current, write_report
from pipeline.report.status import format_status
from pipeline.sample.sample import SampleFlickr, make_sample
from pipeline.seal import mend
from pipeline.seal.seal import finish, units_to_build
from pipeline.seal.verify import verify
from pipeline.selection.selection import num_units, read_funnel, select
from pipeline.workspace import absolute, check_settings, locked, prepare, work_folder

log = logging.getLogger(__name__)

SAMPLE_SAMPLES_PER_SHARD = 256
"""The embedded sample is small; with the default for real data it would be a single shard."""
LIMIT_FROM_ROWS = 2000
"""Rows after which the share of rejections is looked at while fetching; fewer may mislead."""


def build(config: BuildConfig) -> Manifest | None:
    """Run the stages the settings ask for; the manifest, or None when none was written or read."""
    work = work_folder(config)
    if config.dry_run or config.stage == "status":
        text = print_estimate(config, work) if config.dry_run else format_status(config, work)
        log.info("%s\n%s", config.output, text)
        return None
    if config.stage == "ingest":
        prepare(config, work)
        with locked(work), hold(config.output, work):
            ingest(config)
        return None
    if config.stage == "verify":
        return _verify(config)
    return _build(config, work)


def _verify(config: BuildConfig) -> Manifest:
    manifest = load_manifest(config.output)
    damaged = verify(config)
    if damaged:
        files = ", ".join(sorted({damage.file for damage in damaged})[:10])
        cure = "run slip index again" if manifest.shards_url else "run the same build with --stage repair"
        raise ShardError(f"{config.output}: {len(damaged)} files are damaged ({files}); {cure}")
    log.info("all %d shards are as the manifest says (sha256 %s)", len(manifest.shards), manifest.sha256)
    return manifest


def _build(config: BuildConfig, work: Path) -> Manifest | None:
    started = time.perf_counter()
    with ExitStack() as stack:
        prepare(config, work)
        if config.stage in {"all", "fetch", "seal"}:
            check_executor(config)
        stack.enter_context(locked(work))
        proxy, data_name = None, _data_name(config)
        if data_name == "sample":
            config, photos = _with_sample(config, work.parent / "sample")
            proxy = stack.enter_context(SampleFlickr(photos)).proxy_url
        lease = None
        if config.stage not in {"select", "fetch", "report"}:
            lease = stack.enter_context(hold(config.output, work))
        check_settings(config, work)
        manifest = _Build(config, work, proxy, data_name, lease).run()
    if manifest is not None:
        _log_summary(config, manifest, time.perf_counter() - started)
    return manifest


def _data_name(config: BuildConfig) -> str:
    """What is built, or is there already: a finished data set can be repaired without naming its metadata again."""
    if config.stage != "repair" or not config.is_sample:
        return config.data_name
    if store.exists(manifest_url(config.output)):
        return load_manifest(config.output).variant
    if config.output == DEFAULT_OUTPUT:
        return config.data_name
    raise ConfigError(f"{config.output}: has no manifest; to have it written again name the build's --metadata too")


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
        output=absolute(config.output),
    )
    log.info("the sample's rows, photographs and held-out labelled pictures are in %s", folder)
    return sampled, sample.photos


@dataclass(frozen=True, slots=True)
class _Build:
    """One run: the settings, and what they led to."""

    config: BuildConfig
    work: Path
    proxy: str | None
    data_name: str
    lease: Lease | None

    def run(self) -> Manifest | None:
        """The stages that were asked for, in order."""
        config, work = self.config, self.work
        if config.stage == "report":
            manifest = load_manifest(config.output)
            write_report(config, work, manifest)
            return manifest
        if config.stage == "repair":
            return mend.repair(config, work, proxy=self.proxy, data_name=self.data_name)
        if config.stage in {"all", "select"}:
            funnel = select(config, work)
            log.info("select: %s of %s rows", f"{funnel.kept:,}", f"{funnel.rows:,}")
            if config.stage == "select":
                return None
        funnel = self._finished_selection()
        self._make_units()
        if config.stage == "fetch":
            return None
        manifest = finish(config, work, funnel, data_name=self.data_name)
        if config.retry_failed:
            manifest = mend.retry_failed(config, work, proxy=self.proxy, data_name=self.data_name)
        if config.stage == "all" and not is_current(config, manifest):
            write_report(config, work, manifest)
        return manifest

    def _finished_selection(self) -> Funnel:
        funnel = read_funnel(self.work)
        if funnel is None:
            raise InputError(f"{self.work}: the select stage has not finished; run --stage select (or all) first")
        return funnel

    def _make_units(self) -> None:
        """Fetch and seal what is not sealed yet, group by group: a group is sealed while the next one is fetched.

        Between the two, in the order of the units, pictures that came before are marked; that is why a group is
        sealed as a whole, and what makes the outcome the same for every executor.
        """
        config, work = self.config, self.work
        units = range(num_units(work))
        rejections = _Rejections(config.max_rejected)
        waiting = units_to_build(config, work, units)
        for unit in sorted(set(units) - set(waiting)):
            rejections.add(work, unit)
        if len(waiting) < len(units):
            log.info("%d of %d shards are sealed already", len(units) - len(waiting), len(units))
        if not waiting:
            return
        duplicates = Duplicates(config, work)
        # The executor is closed first: what is being sealed in the background ends when fetching fails.
        with ThreadPoolExecutor(1) as background, open_executor(config, work, proxy=self.proxy) as executor:
            sealing: Future[None] | None = None
            for first in range(0, len(waiting), executor.group_size):
                group = waiting[first : first + executor.group_size]
                if config.stage != "seal":
                    for _ in executor.fetch(group):
                        pass
                duplicates.mark(group)
                for unit in group:
                    rejections.add(work, unit)
                if sealing is not None:
                    sealing.result()
                if config.stage != "fetch":
                    sealing = background.submit(self._seal, executor, group)
            if sealing is not None:
                sealing.result()

    def _seal(self, executor: Executor, units: Sequence[int]) -> None:
        if self.lease is not None:
            self.lease.check()
        for _ in executor.seal(units):
            pass


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
