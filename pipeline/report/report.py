"""Write `report.html`: one self-contained page on which a person sees what a sealed data set holds.

In come the manifest, the shards' indexes and, where it still exists, the work folder; out goes the page beside the
manifest. Indexes are read one after the other and only counted, so memory does not grow with the data set. How the page
looks is `report_page`'s part. Equal data sets give equal pages, but for the chart of download rates.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline import store
from pipeline.captions import language
from pipeline.config import BuildConfig
from pipeline.errors import ShardError, YfccError
from pipeline.fetch.timing import read_timing
from pipeline.manifest import Manifest, Shard
from pipeline.report.facts import Captions, Example, Facts, Pictures
from pipeline.report.page import manifest_mark, render
from pipeline.report.pictures import CLASSES_PER_OCTAVE
from pipeline.report.work import count_values, read_comparisons, read_fetched, years_of

REPORT_NAME = "report.html"
NUM_EXAMPLES = 48
NUM_LANGUAGE_CAPTIONS = 20_000
"""Captions whose language is looked at; with 20,000 a share is known to a percentage point."""
_HEAD_BYTES = 2048
_THUMBNAIL_PX = 400
_MOST_SIZES = 200_000
_MOST_LICENSES = 10_000
_COLUMNS = ["key", "offset", "size", "image_offset", "image_size", "txt_offset", "txt_size", "width", "height"]
_COLUMNS += [
    "title",
    "description",
    "title_usable",
    "description_usable",
    "user",
    "date_taken",
    "page_url",
    "license",
    "license_url",
]


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
    captions, pictures = Captions(), Pictures()
    examples: list[Example] = []
    to_tell: list[str] = []
    shown = _spread(NUM_EXAMPLES, manifest.num_samples)
    told = _spread(NUM_LANGUAGE_CAPTIONS, manifest.num_samples)
    first = 0
    for shard in manifest.shards:
        index = _read_columns(base_url, shard)
        texts = _captions(index)
        count_values(captions.words, _num_words(texts))
        _count_usable(captions.usable, index)
        _count_pictures(pictures, index)
        examples.extend(_examples(base_url, shard, index.take(_inside(shown, first, index.num_rows))))
        to_tell += texts.take(_inside(told, first, index.num_rows)).to_pylist()
        first += index.num_rows
    no_languages = _tell_languages(captions.languages, to_tell)
    return Facts(
        manifest=manifest,
        base_url=base_url,
        captions=replace(captions, no_languages=no_languages),
        pictures=pictures,
        fetched=read_fetched(work),
        timings=read_timing(work),
        comparisons=read_comparisons(work),
        examples=examples,
    )


def _spread(at_most: int, total: int) -> NDArray[np.int64]:
    """Positions evenly spread over a data set: 4 of 100 are 12, 37, 62, 87."""
    count = min(at_most, total)
    return (2 * np.arange(count, dtype=np.int64) + 1) * total // (2 * max(count, 1))


def _inside(positions: NDArray[np.int64], first: int, num_rows: int) -> pa.Array:
    """Those of the ascending positions that lie in one shard, counted from its first sample."""
    begin, end = np.searchsorted(positions, [first, first + num_rows])
    return pa.array(positions[begin:end] - first)


def _read_columns(base_url: str, shard: Shard) -> pa.Table:
    url = store.join(base_url, shard.index)
    try:
        index = pq.read_table(io.BytesIO(store.read_bytes(url)), columns=_COLUMNS)
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{url}: cannot be read as the index of {shard.name} ({error}); rebuild it") from error
    if index.num_rows != shard.num_samples:
        raise ShardError(f"{url}: {index.num_rows} samples, the manifest says {shard.num_samples}; rebuild it")
    return index


def _captions(index: pa.Table) -> pa.ChunkedArray:
    """The samples' captions: description or title, told apart by the caption's number of bytes."""
    is_description = pc.equal(pc.binary_length(index["description"]), index["txt_size"])
    return pc.if_else(is_description, index["description"], index["title"])


def _count_usable(usable: Counter[str], index: pa.Table) -> None:
    title, description = index["title_usable"], index["description_usable"]
    groups = {
        "both": pc.and_(title, description),
        "title": pc.and_not(title, description),
        "description": pc.and_not(description, title),
        "neither": pc.invert(pc.or_(title, description)),
    }
    for name, is_member in groups.items():
        usable[name] += pc.sum(is_member).as_py() or 0


def _num_words(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(texts)
    counts = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(0, counts.type), counts)


def _count_pictures(pictures: Pictures, index: pa.Table) -> None:
    width, height = index["width"].to_numpy().astype(np.int64), index["height"].to_numpy().astype(np.int64)
    shorter, longer = np.maximum(np.minimum(width, height), 1), np.maximum(np.maximum(width, height), 1)
    _count_numbers(pictures.shorter_side, shorter)
    _count_numbers(pictures.kilobytes, index["image_size"].to_numpy() // 1000)
    _count_numbers(pictures.aspects, np.rint(100 * longer / shorter).astype(np.int64))
    classes = np.rint(CLASSES_PER_OCTAVE * np.log2(np.maximum(np.stack([width, height]), 1))).astype(np.int64)
    _count_pairs(pictures.size_classes, classes)
    _count_pairs(pictures.common_sizes, np.stack([width, height]))
    _keep_largest(pictures.common_sizes, _MOST_SIZES)
    is_square = longer <= 1.05 * shorter
    pictures.shapes["square"] += int(is_square.sum())
    pictures.shapes["landscape"] += int((~is_square & (width > height)).sum())
    pictures.shapes["portrait"] += int((~is_square & (width < height)).sum())
    count_values(pictures.years, years_of(index["date_taken"]))
    for entry in index.group_by(["license", "license_url"]).aggregate([([], "count_all")]).to_pylist():
        pictures.licenses[entry["license"], entry["license_url"]] += entry["count_all"]
    _keep_largest(pictures.licenses, _MOST_LICENSES, ("others", ""))


def _count_numbers(counter: Counter[int], values: NDArray[np.int64]) -> None:
    found, counts = np.unique(values, return_counts=True)
    counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _count_pairs(counter: Counter[tuple[int, int]], pairs: NDArray[np.int64]) -> None:
    found, counts = np.unique(pairs, axis=1, return_counts=True)
    counter.update(dict(zip(zip(*found.tolist(), strict=True), counts.tolist(), strict=True)))


def _keep_largest(counter: Counter[Any], most: int, rest: Any = None) -> None:
    """Bound a counter's memory: beyond `most` entries the rarer half goes, into `rest` if there is one."""
    if len(counter) <= most:
        return
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    for key, count in ranked[most // 2 :]:
        del counter[key]
        if rest is not None:
            counter[rest] += count


def _tell_languages(languages: Counter[str], texts: Sequence[str]) -> str:
    """Count the texts' languages; why it could not be done, or ""."""
    try:
        languages.update(language.detect(text) for text in texts)
    except YfccError as error:
        languages.clear()
        return str(error)
    return ""


def _examples(base_url: str, shard: Shard, rows: pa.Table) -> Iterator[Example]:
    for row in rows.to_pylist():
        sample = store.read_range(store.join(base_url, shard.name), row["offset"], row["size"])
        image_start = row["image_offset"] - row["offset"]
        txt_start = row["txt_offset"] - row["offset"]
        yield Example(
            key=row["key"],
            thumbnail=_thumbnail(sample[image_start : image_start + row["image_size"]]),
            caption=sample[txt_start : txt_start + row["txt_size"]].decode("utf-8", "replace"),
            width=row["width"],
            height=row["height"],
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
