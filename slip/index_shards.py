"""`slip index URL... --output FOLDER`: a manifest for WebDataset tars of others, by one pass over each.

In: tars in WebDataset form wherever they lie; they are read once and not changed. Out: FOLDER with an index for every
tar and, last, manifest.json, which names the tars where they are. Tars that are not whole are all named before the
command gives up, or left out and noted with --skip-damaged. The same command again reads only tars that have no
index yet: every index notes the URL, size and digest of its tar.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from pipeline import store
from pipeline.errors import ConfigError, InputError, ShardError
from pipeline.manifest import MANIFEST_NAME, Manifest, load_manifest, write_manifest
from slip.command import run_verb
from slip.data.tar_entries import TarEntry, known_entry, read_entry
from slip.data.tar_lists import TarPlace, absolute, find_tars, place_tars
from slip.data.tar_members import DamagedTarError

logger = logging.getLogger(__name__)

VARIANT = "indexed"
_LOOK_UPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Which tars become a data set, and where its manifest is written."""

    urls: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Tars: paths, URLs, brace patterns ('s3://b/cc12m/{00000..01242}.tar'; quote them), or folders, with a slash at
    the end, for all *.tar below."""
    output: str
    """Folder or URL for manifest.json and one index per tar (about 100 bytes a sample)."""
    name: str = ""
    """Name of the data set. Empty: that of the folder the tars are in."""
    connections: int = 4
    """Tars read at once. Each takes some 25 MB, and its largest picture (members above 1 GiB are refused)."""
    skip_damaged: bool = False
    """Leave out tars that are cut, damaged or missing, instead of stopping after naming them all."""
    dry_run: bool = False
    """Only say how many tars and bytes would be read."""

    def __post_init__(self) -> None:
        """Check what does not depend on any file."""
        if not self.urls:
            raise ConfigError("no tar is named; give a URL, a brace pattern, or a folder with a slash at the end")
        if self.connections < 1:
            raise ConfigError(f"--connections is {self.connections}; it must be at least 1")


class _StoppedError(Exception):
    """Reading ends because another thread has failed."""


class _Meter:
    """Bytes read by all threads, as a progress bar; and the word to stop."""

    def __init__(self, num_bytes: int, num_tars: int) -> None:
        self._lock = threading.Lock()
        self._num_done, self._num_tars = 0, num_tars
        self._stopped = threading.Event()
        self._bar = tqdm(
            desc="index",
            total=num_bytes,
            unit="B",
            unit_scale=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        )

    def watch(self, num_bytes: int) -> None:
        """Count bytes; raises _StoppedError when reading is to end."""
        if self._stopped.is_set():
            raise _StoppedError
        with self._lock:
            self._bar.update(num_bytes)

    def tar_done(self) -> None:
        """Count a tar."""
        with self._lock:
            self._num_done += 1
            self._bar.set_postfix_str(f"{self._num_done:,} of {self._num_tars:,} tars", refresh=False)

    def stop(self) -> None:
        """Let every thread end at its next piece."""
        self._stopped.set()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def _read_all(
    config: IndexConfig, tars: Sequence[TarPlace], sizes: dict[str, int]
) -> tuple[dict[str, TarEntry], dict[str, str]]:
    """Read tars, several at once: entries by URL, and what is wrong with the tars that are damaged."""
    entries: dict[str, TarEntry] = {}
    damages: dict[str, str] = {}
    meter = _Meter(sum(sizes[tar.url] for tar in tars), len(tars))
    with ThreadPoolExecutor(config.connections, "index") as pool:
        futures = {pool.submit(read_entry, config.output, tar, sizes[tar.url], meter.watch): tar for tar in tars}
        try:
            for future in as_completed(futures):
                url = futures[future].url
                try:
                    entries[url] = future.result()
                except DamagedTarError as error:
                    damages[url] = str(error)
                meter.tar_done()
        finally:
            meter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            meter.close()
    return entries, damages


def _forget_manifest(output: str, tars: Sequence[TarPlace]) -> None:
    """Remove a manifest of this command's that names indexes about to be replaced; refuse to touch another's."""
    url = store.join(output, MANIFEST_NAME)
    if not store.exists(url):
        return
    old = load_manifest(url)
    if old.variant != VARIANT:
        raise ConfigError(f"{url}: is the manifest of another data set ({old.name}); choose another --output")
    if {shard.index for shard in old.shards} & {tar.index for tar in tars}:
        store.delete(url)


def _manifest(config: IndexConfig, folder: str, entries: Sequence[TarEntry], skipped: Sequence[str]) -> Manifest:
    """All entries as one data set."""
    rejected: Counter[str] = Counter()
    for entry in entries:
        rejected.update(entry.rejected)
    shards = tuple(entry.shard for entry in entries if entry.shard.num_samples)
    if not shards:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items())) or "no members"
        raise InputError(f"{folder}: no tar has a sample with a picture and a caption ({reasons}); see --help")
    kept = sum(shard.num_samples for shard in shards)
    settings: dict[str, Any] = {"urls": [absolute(url) for url in config.urls]}
    if skipped:
        settings["skipped"] = sorted(skipped)
    if empty := sorted(entry.shard.name for entry in entries if not entry.shard.num_samples):
        settings["without_samples"] = empty
    manifest = Manifest(
        name=config.name or folder.rstrip("/").rpartition("/")[2] or VARIANT,
        variant=VARIANT,
        num_samples=kept,
        num_bytes=sum(shard.num_bytes for shard in shards),
        funnel={"rows": kept + rejected.total(), "kept": kept, "rejected": dict(sorted(rejected.items()))},
        settings=settings,
        shards=shards,
        shards_url=folder,
    )
    return Manifest.from_json(manifest.to_json(), store.join(config.output, MANIFEST_NAME))


def _look_up(
    config: IndexConfig, tars: Sequence[TarPlace]
) -> tuple[dict[str, int], dict[str, TarEntry], dict[str, str]]:
    """By URL: sizes of the tars that are there, entries of those that have an index, what is wrong with the others."""
    urls = [tar.url for tar in tars]
    with ThreadPoolExecutor(_LOOK_UPS) as pool:
        looked_up = dict(zip(urls, pool.map(store.size, urls), strict=True))
        sizes = {url: num_bytes for url, num_bytes in looked_up.items() if num_bytes is not None}
        missing = {url: f"{url}: there is no such file" for url in urls if url not in sizes}
        there = [tar for tar in tars if tar.url in sizes]
        known = pool.map(lambda tar: known_entry(config.output, tar, sizes[tar.url]), there)
        entries = {tar.url: entry for tar, entry in zip(there, known, strict=True) if entry is not None}
    return sizes, entries, missing


def _report_damages(config: IndexConfig, tars: Sequence[TarPlace], damages: dict[str, str]) -> None:
    """Name every tar that cannot be used; ShardError unless they are to be left out."""
    for tar in tars:
        if tar.url in damages:
            logger.log(logging.WARNING if config.skip_damaged else logging.ERROR, "%s", damages[tar.url])
    if damages and not config.skip_damaged:
        raise ShardError(
            f"{len(damages):,} of {len(tars):,} tars are damaged or missing, named above; no manifest was written. "
            "Mend them and run the same command again, or leave them out with --skip-damaged"
        )


def index(config: IndexConfig) -> Manifest | None:
    """Index all tars and write the manifest; None after a dry run.

    ShardError when tars are damaged, after all were looked at; StoreError when one cannot be read at present.
    """
    folder, tars = place_tars(find_tars(config.urls))
    sizes, entries, damages = _look_up(config, tars)
    to_read = [tar for tar in tars if tar.url in sizes and tar.url not in entries]
    num_gb = sum(sizes[tar.url] for tar in to_read) / 1e9
    done = f"; {len(entries):,} have an index" if entries else ""
    logger.info("%s tars below %s, %s to read (%.3f GB)%s", f"{len(tars):,}", folder, f"{len(to_read):,}", num_gb, done)
    if config.dry_run:
        for damage in damages.values():
            logger.warning("%s", damage)
        return None
    _forget_manifest(config.output, to_read)
    if to_read:
        read, damaged = _read_all(config, to_read, sizes)
        entries |= read
        damages |= damaged
    _report_damages(config, tars, damages)
    kept = [entries[tar.url] for tar in tars if tar.url in entries]
    manifest = _manifest(config, folder, kept, [tar.name for tar in tars if tar.url in damages])
    write_manifest(manifest, config.output)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.funnel["rejected"].items())
    logger.info(
        "%s: %s samples in %s tars; rejected: %s",
        store.join(config.output, MANIFEST_NAME),
        f"{manifest.num_samples:,}",
        f"{len(manifest.shards):,}",
        reasons or "none",
    )
    return manifest


def main(argv: Sequence[str] | None = None) -> int:
    """Index; 0 done, 1 error, 2 usage, 130 interrupted."""

    def work() -> int:
        index(
            tyro.cli(
                IndexConfig,
                args=sys.argv[1:] if argv is None else list(argv),
                prog="slip index",
                description=(
                    "Make a manifest for WebDataset tars of others (CC12M, LAION, img2dataset's output) by reading "
                    "each once, so that slip train streams them as exactly as its own. "
                    "Run the same command again to go on."
                ),
            )
        )
        return 0

    go_on = "interrupted; run the same command again to go on with the tars that have no index yet"
    return run_verb(work, interrupted=go_on)


if __name__ == "__main__":
    sys.exit(main())
