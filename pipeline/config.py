"""Settings of the build; the command line of `pipeline/build_yfcc15m.py` is read from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError

DEFAULT_OUTPUT = "data/yfcc15m-sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Turn YFCC100M's metadata into sealed WebDataset shards.

    Without arguments the embedded sample is built: a small generated stand-in for Flickr. For the real
    thing give --metadata, --subset-list and --output. Run the same command again to resume.
    """

    metadata: tuple[str, ...] = ()
    """Metadata files: YFCC100M v2 rows (25 columns, text or .bz2), or with --source local a Parquet table of your own
    (columns: path or image; title, description or caption; optionally key)."""
    subset_list: str | None = None
    """OpenAI's list of YFCC15M: lines of `line number, photo id, key` separated by tabs (text or .bz2)."""
    output: str = DEFAULT_OUTPUT
    """Folder or URL (s3://bucket/prefix, or anything fsspec knows) for shards, manifest and report."""
    work: str | None = None
    """Local folder for intermediate files. Default: OUTPUT_work for a local output, else a folder in ~/.cache/yfcc15m
    named after the output."""
    source: Literal["flickr", "local"] = "flickr"
    """Where pictures come from: flickr = the rows' download URLs, local = files or bytes named by --metadata."""
    stage: Literal["all", "select", "fetch", "seal", "report"] = "all"
    """Run one stage only; `all` fetches and seals shard by shard, so that little local disk is needed."""
    samples_per_shard: int = 10_000
    """Selected rows per shard; a shard holds fewer samples when pictures are missing."""
    processes: int = max(1, os.cpu_count() or 1)
    """Download processes."""
    threads: int = 32
    """Concurrent downloads in each process."""
    timeout_s: float = 15.0
    """Seconds without a byte after which a download counts as failed."""
    retries: int = 3
    """Further attempts after a failed download."""
    min_side: int = 16
    """Shorter side in pixels under which a picture is rejected."""
    max_pixels: int = 100_000_000
    """Pixels (width x height in the header) above which a picture is rejected undecoded."""
    max_rejected: float = 0.3
    """Share of the selected rows (0 to 1) that fetching may reject; above it the build stops with exit code 3."""

    def __post_init__(self) -> None:
        if self.metadata and self.source == "flickr" and self.subset_list is None:
            raise ConfigError(
                "--metadata is given without --subset-list: YFCC15M is defined by OpenAI's list; "
                "pass --subset-list yfcc100m_subset_data.tsv"
            )
        if self.subset_list is not None and not self.metadata:
            raise ConfigError("--subset-list is given without --metadata: name the metadata file too")
        if self.source == "local" and self.subset_list is not None:
            raise ConfigError("--source local takes every row of your table; leave out --subset-list")
        if self.source == "local" and not self.metadata:
            raise ConfigError("--source local needs --metadata: a Parquet table naming your pictures")
        for name in ("samples_per_shard", "processes", "threads", "min_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if self.timeout_s <= 0 or self.retries < 0:
            raise ConfigError(f"--timeout-s {self.timeout_s} --retries {self.retries}: must be positive")
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(f"--max-rejected is {self.max_rejected}; it is a share between 0 and 1")
        if self.metadata and self.output == DEFAULT_OUTPUT:
            raise ConfigError(f"--output is missing: {DEFAULT_OUTPUT} is kept for the embedded sample")
