"""What the report is about: counts and examples of one data set, small whatever the data set's size.

Pure records. `report` and `report_work` fill them, the `report_` modules named after sections show them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.fetch.timing import Timing
from pipeline.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample of the grid."""

    key: str
    thumbnail: str
    """data: URL."""
    caption: str
    width: int
    height: int
    user: str
    page_url: str
    license: str
    license_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The samples' captions (what KEY.txt holds), from the shards' indexes."""

    words: Counter[int] = field(default_factory=Counter)
    """Samples per number of words, separated by white space."""
    usable: Counter[str] = field(default_factory=Counter)
    """Samples per text that is natural language: "both", "title", "description" or "neither"."""
    languages: Counter[str] = field(default_factory=Counter)
    """Captions looked at per ISO 639 code of their likeliest language, "und" = cannot be told."""
    no_languages: str = ""
    """Why languages were not told, in words; "" when they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The samples' pictures, from the shards' indexes."""

    shorter_side: Counter[int] = field(default_factory=Counter)
    """Samples per length of the shorter side in pixels."""
    kilobytes: Counter[int] = field(default_factory=Counter)
    """Samples per size of the picture's file in kB (1000 bytes, rounded down)."""
    size_classes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Samples per class of width and height; class c holds lengths near 2 ** (c / 8) pixels."""
    common_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Samples per width and height in pixels, rare ones left out."""
    shapes: Counter[str] = field(default_factory=Counter)
    """Samples that are "landscape", "portrait" or "square" (sides within 5 % of each other)."""
    aspects: Counter[int] = field(default_factory=Counter)
    """Samples per longer side over shorter side, in hundredths, rounded."""
    years: Counter[str] = field(default_factory=Counter)
    """Samples per year taken; "" = unknown."""
    licenses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples per name and URL of the licence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A picture left out because an earlier one has the same bytes."""

    key: str
    page_url: str
    detail: str
    """What was noted: which sample came before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What became of the selected rows, from the work folder."""

    asked_by_year: Counter[str] = field(default_factory=Counter)
    """Rows whose picture was asked for, per year taken; "" = unknown."""
    gone_by_year: Counter[str] = field(default_factory=Counter)
    """Rows of them whose photograph is gone: dead link or placeholder."""
    lost_by_year: Counter[str] = field(default_factory=Counter)
    """Rows of them without a good picture, for any reason but being a duplicate."""
    asked_of: Counter[str] = field(default_factory=Counter)
    """Rows per source that was asked; empty when this was not noted."""
    came_from: Counter[str] = field(default_factory=Counter)
    """Good pictures per source that gave them."""
    refused_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Answers without a good picture, per source and reason."""
    duplicates: Sequence[Duplicate] = ()
    """Some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The selection ("here") beside a list or data set ("there"); all numbers count distinct photos."""

    name: str
    here: int
    there: int
    both: int
    only_here: int
    only_there: int
    precision: float
    """Share of the selection that is in the list."""
    recall: float
    """Share of the list that was selected."""
    jaccard: float
    """Size of the intersection over size of the union."""
    lost: dict[str, int]
    """Photos of the list that were not selected, per reason; empty when this was not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the page shows."""

    manifest: Manifest
    base_url: str
    """Where manifest and shards are."""
    captions: Captions
    pictures: Pictures
    fetched: Fetched | None
    """None when the work folder is gone."""
    timings: Sequence[Timing] = ()
    comparisons: Sequence[Comparison] = ()
    examples: Sequence[Example] = ()
