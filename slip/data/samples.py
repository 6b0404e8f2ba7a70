"""A sample between shard and decoder: its bytes as sealed, or the news that they are damaged.

`cut_sample` takes the members out of a sample's bytes by the offset index, so no tar header is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.manifest import ShardIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """One sample as it lies in its shard."""

    sample_id: int
    shard: str
    """URL of the tar."""
    offset: int
    """Of the sample's first header in the tar."""
    key: str
    image: bytes | memoryview
    """Encoded; a view of what was read together with its neighbours, where that saves a copy."""
    text: str
    """The caption of the .txt member."""
    json: bytes | memoryview
    """The .json member, empty when there is none."""

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions to draw from, never empty: title and description where they are usable, else the text."""
        return tuple(text for text in usable_texts(self.json) if text) or (self.text,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedSample:
    """A sample whose bytes are not what was sealed."""

    sample_id: int
    shard: str
    offset: int
    key: str
    detail: str


Window = Sequence[RawSample | DamagedSample]
"""The samples of one window (see `slip.data.plan`), in the order of use."""


def usable_texts(data: bytes | memoryview) -> tuple[str, str]:
    """Title and description out of a sample's .json, each "" unless it is a usable text."""
    try:
        content = json.loads(bytes(data)) if len(data) else None
    except ValueError:
        return "", ""
    if not isinstance(content, dict):
        return "", ""
    title, description = (
        text if content.get(f"{name}_usable", True) and isinstance(text := content.get(name), str) else ""
        for name in ("title", "description")
    )
    return title.strip(), description.strip()


def cut_sample(data: memoryview, sample_id: int, url: str, index: ShardIndex, row: int) -> RawSample:
    """Take a sample's members out of its bytes in the tar (which start at the index's `offset`)."""
    offset = int(index.offset[row])

    def member(start: int, size: int) -> memoryview:
        return data[start - offset : start - offset + size]

    return RawSample(
        sample_id=sample_id,
        shard=url,
        offset=offset,
        key=index.key(row),
        image=member(int(index.image_offset[row]), int(index.image_size[row])),
        text=str(member(int(index.txt_offset[row]), int(index.txt_size[row])), "utf-8", errors="replace"),
        json=member(int(index.json_offset[row]), int(index.json_size[row])),
    )
