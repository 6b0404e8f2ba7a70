"""Small sealed data sets whose samples all differ, in length, size and content."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.manifest import Manifest
from tests.tiny_data import write_set

MakeDataset = Callable[..., Manifest]


def picture(number: int) -> bytes:
    """A JPEG whose every pixel differs from the other pictures', of varied size."""
    generator = np.random.Generator(np.random.Philox(number))
    small = generator.integers(0, 256, (4 + number % 3, 5, 3), dtype=np.uint8)
    size = (40 + 7 * (number % 5), 33 + 5 * (number % 4))
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _members(number: int, image: bytes) -> dict[str, bytes]:
    content = {
        "title": f"title of {number}",
        "description": f"a longer description of {number}",
        "title_usable": number % 3 != 0,
        "description_usable": number % 4 != 0,
    }
    return {"jpg": image, "json": json.dumps(content).encode(), "txt": f"text of {number}".encode()}


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """make_dataset(counts, images={}): shards of pictures numbered through; `images` replaces some of them."""

    def make(counts: Sequence[int], images: dict[int, bytes] | None = None, folder: Path = tmp_path) -> Manifest:
        return write_set(folder, counts, lambda number: _members(number, (images or {}).get(number) or picture(number)))

    return make
