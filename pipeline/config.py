"""Settings of the build; the command line of `pipeline/build_yfcc15m.py` is read from them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import ConfigError

DEFAULT_OUTPUT = "data/yfcc15m-sample"

Dataset = Literal["yfcc", "cc3m", "cc12m", "redcaps", "local"]
Variant = Literal["openai", "declip", "english"]
ImageSource = Literal["url", "bucket", "zip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmConfig:
    """How --executor slurm asks for its array jobs."""

    units_per_task: int = 4
    """Units (shards) one array task makes, one after the other."""
    max_tasks: int = 64
    """Array tasks at once; units beyond them wait for the next array."""
    cpus_per_task: int = 8
    """Processor cores of a task."""
    mem_gb: int = 16
    """Memory of a task in GB."""
    time_min: int = 240
    """Time limit of a task in minutes."""
    partition: str | None = None
    """Partition; None: the cluster's default."""
    account: str | None = None
    """Account; None: the user's default."""

    def __post_init__(self) -> None:
        for name in ("units_per_task", "max_tasks", "cpus_per_task", "mem_gb", "time_min"):
            if getattr(self, name) < 1:
                flag = f"--slurm.{name.replace('_', '-')}"
                raise ConfigError(f"{flag} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateConfig:
    """What --dry-run reckons with; the prices are yours to fill in."""

    pictures_per_s: float | None = None
    """Pictures downloaded in a second by the whole build; None: as measured so far, else 50 per process."""
    picture_kb: float | None = None
    """Mean size of a picture in kB (1000 bytes); None: as fetched so far, else 120 (Flickr's 500-pixel size)."""
    storage_usd_per_gb_month: float = 0.023
    """Price of storing a GB (10^9 bytes) for a month, in USD."""
    egress_usd_per_gb: float = 0.0
    """Price of moving a GB out of the store the pictures come from, in USD."""
    put_usd_per_1000: float = 0.005
    """Price of 1000 writing requests to the output's store, in USD."""
    get_usd_per_1000: float = 0.0004
    """Price of 1000 reading requests to the store the pictures come from, in USD."""

    def __post_init__(self) -> None:
        for name in ("pictures_per_s", "picture_kb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--estimate.{name.replace('_', '-')} is {value}; it must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Turn YFCC100M's metadata into sealed WebDataset shards.

    Without arguments the embedded sample is built: a small generated stand-in for Flickr. For the real
    thing give --metadata, --variant (with --subset-list where it needs one) and --output. Run the same
    command again to resume.
    """

    metadata: tuple[str, ...] = ()
    """Files or folders with rows: YFCC100M's metadata in any published form (v1 or v2 as text or .bz2, the SQLite file,
    or Parquet as --stage ingest writes it), another data set's list (see --dataset), or a Parquet table of your own."""
    dataset: Dataset = "yfcc"
    """What --metadata holds: yfcc = YFCC100M, cc3m / cc12m / redcaps = the published lists of those data sets, local =
    a Parquet table of your own pictures (columns: path or image; title, description or caption; optionally key)."""
    variant: Variant | None = None
    """Which YFCC15M: openai = the rows of OpenAI's list, declip = DeCLIP's list, english = rows whose description is in
    English by our own rules (no list needed). Default: openai when there is a --subset-list."""
    subset_list: str | None = None
    """The list of the variant: OpenAI's yfcc100m_subset_data.tsv or DeCLIP's yfcc15m_clean_open_data.json (text or
    .bz2)."""
    join_by: Literal["auto", "line", "photo_id", "key"] = "auto"
    """Column by which OpenAI's list is joined; the others are cross-checked. auto: line where the metadata has
    lines."""
    caption_fields: Literal["description", "title,description"] = "description"
    """For variant english: the texts of which one must be natural language in English."""
    captions: Literal["clean", "paper"] = "clean"
    """clean = decoded and cleaned as this project does; paper = exactly what the published SLIP script makes of them,
    its faults included (plus signs lost, line feeds kept, empty captions drawn)."""
    also_score: tuple[str, ...] = ()
    """Lists (OpenAI's or DeCLIP's) or finished data sets the selection is compared with: overlap, precision, recall."""
    output: str = DEFAULT_OUTPUT
    """Folder or URL (s3://bucket/prefix, or anything fsspec knows) for shards, manifest and report."""
    work: str | None = None
    """Local folder for intermediate files (a shared one for --executor slurm). Default: OUTPUT_work for a local output,
    else a folder in ~/.cache/yfcc15m named after the output."""
    prefer: tuple[ImageSource, ...] = ("url",)
    """Where pictures come from, in this order; what one does not give is asked of the next. url = the row's download
    URL (Flickr's), bucket = the public bucket, zip = archives in the published layout under --zip-root."""
    bucket: str = "https://multimedia-commons.s3-us-west-2.amazonaws.com/data/images"
    """Address of the public bucket's pictures."""
    zip_root: str | None = None
    """Folder of zip archives: RR/ZZZ.zip holds NNN.jpg for the row with line number RRZZZNNN."""
    stage: Literal["all", "ingest", "select", "fetch", "seal", "report", "verify", "repair", "status"] = "all"
    """all = select, then fetch and seal shard by shard, then report. ingest = copy metadata to Parquet in --output,
    which --metadata then reads much faster. verify = read every shard back and name what is damaged, repair = rebuild
    exactly that, status = how far a build is."""
    dry_run: bool = False
    """Only print what would be read, downloaded and written, how long it would take and what it would cost."""
    retry_failed: bool = False
    """Ask once more for pictures that failed in a way that can heal, and seal the shards that gained some anew."""
    samples_per_shard: int = 10_000
    """Selected rows per shard; a shard holds fewer samples when pictures are missing."""
    executor: Literal["here", "slurm", "spark", "ray"] = "here"
    """Who fetches and seals: here = processes of this machine, slurm = array jobs through submitit, spark / ray =
    downloads through img2dataset's own distributors. The output's bytes are the same."""
    processes: int = max(1, os.cpu_count() or 1)
    """Processes for downloading and sealing (on each machine), and up to four of them for selecting."""
    threads: int = 32
    """Concurrent downloads in each process."""
    per_host: int = 256
    """Concurrent requests to one host from each machine."""
    timeout_s: float = 15.0
    """Seconds without a byte after which a download counts as failed."""
    deadline_s: float = 3600.0
    """Seconds a unit (one shard's rows) may take to download from one source; what is missing then counts as
    unreachable, or is asked of the next source."""
    retries: int = 3
    """Further attempts after a failed download."""
    resize: int | None = None
    """Shorter side in pixels to which larger pictures are reduced (antialiased, JPEG quality 95). None: kept as
    served."""
    min_side: int = 16
    """Shorter side in pixels under which a picture is rejected."""
    max_aspect: float = 20.0
    """Longer side over shorter side above which a picture is rejected; inf for no limit."""
    max_pixels: int = 100_000_000
    """Pixels (width x height in the header) above which a picture is rejected undecoded."""
    keep_duplicates: bool = False
    """Keep pictures whose bytes are equal to an earlier one's instead of rejecting them."""
    max_rejected: float = 0.3
    """Share of the selected rows (0 to 1) that fetching may reject; above it the build stops with exit code 3."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """For --executor slurm."""
    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    """For --dry-run."""

    @property
    def is_sample(self) -> bool:
        """Whether nothing was named to build from, so that the embedded sample is meant."""
        return not self.metadata and self.subset_list is None

    @property
    def chosen_variant(self) -> Variant | None:
        """The variant, with its default; None for data sets that have none."""
        if self.dataset != "yfcc":
            return None
        return self.variant or "openai"

    @property
    def data_name(self) -> str:
        """What is built, as the manifest's `variant` says it: "openai", "english", "cc3m", "local", "sample" ..."""
        if self.is_sample and self.dataset == "yfcc":
            return "sample"
        return self.chosen_variant or self.dataset

    def __post_init__(self) -> None:
        _check_inputs(self)
        _check_sources(self)
        for name in ("samples_per_shard", "processes", "threads", "per_host", "min_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if self.timeout_s <= 0 or self.deadline_s <= 0 or self.retries < 0:
            times = f"--timeout-s {self.timeout_s} --deadline-s {self.deadline_s} --retries {self.retries}"
            raise ConfigError(f"{times}: must be positive")
        if self.resize is not None and self.resize < self.min_side:
            raise ConfigError(f"--resize is {self.resize}; it must be at least --min-side ({self.min_side})")
        if not self.max_aspect >= 1 or math.isnan(self.max_aspect):
            raise ConfigError(f"--max-aspect is {self.max_aspect}; longer over shorter side is at least 1")
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(f"--max-rejected is {self.max_rejected}; it is a share between 0 and 1")
        if not self.is_sample and self.output == DEFAULT_OUTPUT:
            raise ConfigError(f"--output is missing: {DEFAULT_OUTPUT} is kept for the embedded sample")


def _check_inputs(config: BuildConfig) -> None:
    """Refuse combinations of metadata, variant and list that contradict each other."""
    if config.dataset != "yfcc":
        if config.stage == "ingest":
            raise ConfigError(f"--stage ingest is for YFCC100M's metadata; leave it out for --dataset {config.dataset}")
        for flag, value in (("--variant", config.variant), ("--subset-list", config.subset_list)):
            if value is not None:
                raise ConfigError(f"--dataset {config.dataset} takes every row of its list; leave out {flag}")
        if not config.metadata:
            raise ConfigError(f"--dataset {config.dataset} needs --metadata: the file with its rows")
        if config.captions == "paper":
            raise ConfigError(
                f"--captions paper is for YFCC100M's metadata; leave it out for --dataset {config.dataset}"
            )
        return
    if config.stage == "ingest":
        if not config.metadata:
            raise ConfigError("--stage ingest needs --metadata: the files to copy to Parquet")
        return
    if config.is_sample:
        if config.variant is not None:
            raise ConfigError(f"--variant {config.variant} is given without --metadata: name the metadata files too")
        if config.executor != "here":
            raise ConfigError(
                f"--executor {config.executor} is given without --metadata: only this machine serves the embedded "
                "sample's pictures"
            )
        return
    if config.subset_list is None and config.variant != "english":
        raise ConfigError(
            "--metadata is given without --subset-list: which YFCC15M is meant? Pass --subset-list "
            "yfcc100m_subset_data.tsv for OpenAI's, or --variant english, which needs no list"
        )
    if config.subset_list is not None and config.variant == "english":
        raise ConfigError("--variant english needs no list; to compare with one pass it as --also-score")
    if not config.metadata and config.variant != "declip":
        raise ConfigError("--subset-list is given without --metadata: name the metadata file too")


def _check_sources(config: BuildConfig) -> None:
    """Refuse image sources the rows have nothing to do with."""
    if not config.prefer or len(set(config.prefer)) != len(config.prefer):
        raise ConfigError(f"--prefer is {' '.join(config.prefer)!r}; name one or more of url, bucket, zip, each once")
    if config.dataset != "yfcc" and config.prefer != ("url",):
        raise ConfigError(f"--prefer is for YFCC100M's pictures; leave it out for --dataset {config.dataset}")
    if ("zip" in config.prefer) != (config.zip_root is not None):
        raise ConfigError("--prefer zip and --zip-root belong together: the folder of the zip archives is needed")
