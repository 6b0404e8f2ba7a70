"""Write `report.html`: one self-contained page on which a person sees what a sealed data set holds.

In come the manifest, the shards' indexes and, where they still exist, the outcomes in the work folder; out goes the
page beside the manifest. How it looks is `report_page`'s part. Equal data sets give equal pages.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ShardError
from pipeline.fetched import outcomes_path, read_outcomes
from pipeline.manifest import Manifest, Shard
from pipeline.report_page import Example, Facts, manifest_mark, render
from pipeline.selection import num_units, part_path

REPORT_NAME = "report.html"
NUM_EXAMPLES = 48
_HEAD_BYTES = 2048
_THUMBNAIL_PX = 320
_COLUMNS = ["key", "offset", "size", "image_offset", "image_size", "txt_offset", "txt_size"]
_COLUMNS += ["width", "height", "user", "date_taken", "page_url", "license", "license_url"]


def write_report(config: BuildConfig, work: Path, manifest: Manifest) -> str:
    """Write the page of a sealed data set and return its URL."""
    url = store.join(config.output, REPORT_NAME)
    store.write_bytes(url, render(_collect(config.output, work, manifest)).encode())
    return url


def is_current(config: BuildConfig, manifest: Manifest) -> bool:
    """Whether the output holds the page of this very manifest: making it again means reading every shard's index."""
    url = store.join(config.output, REPORT_NAME)
    num_bytes = store.size(url)
    if not num_bytes:
        return False
    return manifest_mark(manifest).encode() in store.read_range(url, 0, min(num_bytes, _HEAD_BYTES))


def _collect(base_url: str, work: Path, manifest: Manifest) -> Facts:
    caption_bytes: Counter[int] = Counter()
    shorter_side: Counter[int] = Counter()
    licenses: Counter[tuple[str, str]] = Counter()
    years: Counter[str] = Counter()
    examples: list[Example] = []
    wanted = _example_positions(manifest.num_samples)
    first = 0
    for shard in manifest.shards:
        index = _read_columns(base_url, shard)
        _count(caption_bytes, index["txt_size"])
        _count(shorter_side, pc.min_element_wise(index["width"], index["height"]))
        _count(years, _year(index["date_taken"]))
        licenses.update(zip(index["license"].to_pylist(), index["license_url"].to_pylist(), strict=True))
        here = [position - first for position in wanted if first <= position < first + index.num_rows]
        examples.extend(_examples(base_url, shard, index.take(pa.array(here, pa.int64()))))
        first += index.num_rows
    fetched, rejected = _rejections_by_year(work)
    return Facts(
        manifest=manifest,
        base_url=base_url,
        caption_bytes=caption_bytes,
        shorter_side=shorter_side,
        licenses=licenses,
        years=years,
        fetched_by_year=fetched,
        rejected_by_year=rejected,
        examples=examples,
    )


def _example_positions(num_samples: int) -> list[int]:
    """Positions of the examples, evenly spread: 4 of 100 would be 12, 37, 62, 87."""
    count = min(NUM_EXAMPLES, num_samples)
    return [(2 * i + 1) * num_samples // (2 * count) for i in range(count)]


def _read_columns(base_url: str, shard: Shard) -> pa.Table:
    url = store.join(base_url, shard.index)
    try:
        index = pq.read_table(io.BytesIO(store.read_bytes(url)), columns=_COLUMNS)
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{url}: cannot be read as the index of {shard.name} ({error}); rebuild it") from error
    if index.num_rows != shard.num_samples:
        raise ShardError(f"{url}: {index.num_rows} samples, the manifest says {shard.num_samples}; rebuild it")
    return index


def _count(counter: Counter[int] | Counter[str], column: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(column).to_pylist():
        counter[entry["values"]] += entry["counts"]


def _year(dates: pa.ChunkedArray) -> pa.ChunkedArray:
    """ "2009-07-14 12:00:00.0" -> "2009", "" where there is no plausible year."""
    years = pc.utf8_slice_codeunits(dates, 0, 4)
    plausible = pc.match_substring_regex(years, "^(18|19|20)[0-9]{2}$")
    return pc.if_else(pc.fill_null(plausible, False), years, "")


def _rejections_by_year(work: Path) -> tuple[Counter[str], Counter[str]]:
    """Rows fetched and rows of them rejected per year taken; empty when the work folder is gone."""
    fetched: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    if not (work / "selection" / "funnel.json").exists():
        return fetched, rejected
    for unit in range(num_units(work)):
        if not (part_path(work, unit).exists() and outcomes_path(work, unit).exists()):
            return Counter(), Counter()
        years = _year(pq.read_table(part_path(work, unit), columns=["date_taken"])["date_taken"])
        _count(fetched, years)
        _count(rejected, years.filter(pc.not_equal(read_outcomes(work, unit)["reason"], "")))
    return fetched, rejected


def _examples(base_url: str, shard: Shard, rows: pa.Table) -> Iterator[Example]:
    for row in rows.to_pylist():
        sample = store.read_range(store.join(base_url, shard.name), row["offset"], row["size"])
        image_start = row["image_offset"] - row["offset"]
        txt_start = row["txt_offset"] - row["offset"]
        yield Example(
            key=row["key"],
            thumbnail=_thumbnail(sample[image_start : image_start + row["image_size"]]),
            caption=sample[txt_start : txt_start + row["txt_size"]].decode("utf-8", "replace"),
            size=f"{row['width']} × {row['height']}",
            user=row["user"],
            page_url=row["page_url"],
            license=row["license"],
            license_url=row["license_url"],
        )


def _thumbnail(data: bytes) -> str:
    """A small JPEG as a data URL."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (_THUMBNAIL_PX, _THUMBNAIL_PX))
        small = _without_alpha(image)
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _without_alpha(image: Image.Image) -> Image.Image:
    """RGB, transparent parts on white; 16-bit grey is scaled, which Pillow's own conversion would cut off."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray((grey / max(grey.max(), 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
