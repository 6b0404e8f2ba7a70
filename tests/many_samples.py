"""A sealed data set of very many very small samples, for tests that count rather than look."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.manifest import Manifest
from pipeline.seal.shard import Sample, build_shard
from tests.tiny_data import seal

SIDE = 16
_PICTURES = 64


def _pictures() -> list[bytes]:
    """A few JPEGs of noise in different colours."""
    found: list[bytes] = []
    for number in range(_PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
        found.append(buffer.getvalue())
    return found


def _samples(first: int, count: int, pictures: Sequence[bytes]) -> Iterator[tuple[Sample, bytes]]:
    for number in range(first, first + count):
        # Bytes after the end of a JPEG are ignored: no two pictures are equal.
        picture = pictures[number % len(pictures)] + number.to_bytes(8, "little")
        yield (
            Sample(
                key=f"{number:08d}",
                title=f"picture {number}",
                description="",
                title_usable=True,
                description_usable=False,
                user="",
                date_taken="",
                page_url="",
                license="",
                license_url="",
                url="",
                width=SIDE,
                height=SIDE,
                image_ext="jpg",
                image_size=len(picture),
                image_sha256=hashlib.sha256(picture).hexdigest(),
            ),
            picture,
        )


def write_many(folder: Path, counts: Sequence[int]) -> Manifest:
    """Shards with so many samples each, indexes and manifest; keys are the samples' ids."""
    folder.mkdir(parents=True)
    pictures, shards, first = _pictures(), [], 0
    for unit, count in enumerate(counts):
        part = folder / "part"
        built = build_shard(unit, _samples(first, count, pictures), part, is_resized=False)
        part.rename(folder / built.shard.name)
        (folder / built.shard.index).write_bytes(built.index_data)
        shards.append(built.shard)
        first += count
    return seal(str(folder), shards)
