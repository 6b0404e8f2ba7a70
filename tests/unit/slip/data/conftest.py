"""Small sealed data sets, written here with plain tarfile so that the tests do not lean on the build."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.manifest import INDEX_SCHEMA, Manifest, Shard, write_manifest

MakeDataset = Callable[..., Manifest]


def picture(number: int) -> bytes:
    """A JPEG whose every pixel differs from the other pictures', of varied size."""
    generator = np.random.Generator(np.random.Philox(number))
    small = generator.integers(0, 256, (4 + number % 3, 5, 3), dtype=np.uint8)
    size = (40 + 7 * (number % 5), 33 + 5 * (number % 4))
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shard(folder: Path, name: str, samples: Sequence[tuple[str, dict[str, bytes]]]) -> Shard:
    """Write NAME.tar and NAME.parquet; a sample is (key, {extension: bytes})."""
    buffer = io.BytesIO()
    rows: list[dict[str, object]] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            blank = {pa.string(): "", pa.bool_(): False}
            row: dict[str, object] = {field.name: blank.get(field.type, 0) for field in INDEX_SCHEMA}
            row |= {"key": key, "offset": tar.offset}
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                kind = extension if extension in {"txt", "json"} else "image"
                if kind == "image":
                    row["image_ext"] = extension
                row |= {f"{kind}_offset": tar.offset + 512, f"{kind}_size": len(data)}
                tar.addfile(info, io.BytesIO(data))
            row["size"] = tar.offset - int(str(row["offset"]))
            rows.append(row)
    data = buffer.getvalue()
    for row in rows:
        start = int(str(row["offset"]))
        row["sha256"] = hashlib.sha256(data[start : start + int(str(row["size"]))]).hexdigest()
    (folder / f"{name}.tar").write_bytes(data)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / f"{name}.parquet")
    index = (folder / f"{name}.parquet").read_bytes()
    return Shard(
        name=f"{name}.tar",
        num_samples=len(samples),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index=f"{name}.parquet",
        index_sha256=hashlib.sha256(index).hexdigest(),
    )


def _sample(number: int, image: bytes) -> tuple[str, dict[str, bytes]]:
    content = {
        "title": f"title of {number}",
        "description": f"a longer description of {number}",
        "title_usable": number % 3 != 0,
        "description_usable": number % 4 != 0,
    }
    key = f"{number:06d}"
    return key, {"jpg": image, "json": json.dumps(content).encode(), "txt": f"text of {number}".encode()}


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """make_dataset(counts, images={}): shards of pictures numbered through; `images` replaces some of them."""

    def make(counts: Sequence[int], images: dict[int, bytes] | None = None, folder: Path = tmp_path) -> Manifest:
        folder.mkdir(parents=True, exist_ok=True)
        shards, number = [], 0
        for i, count in enumerate(counts):
            numbers = range(number, number + count)
            number += count
            samples = [_sample(n, (images or {}).get(n) or picture(n)) for n in numbers]
            shards.append(write_shard(folder, f"{i:05d}", samples))
        manifest = Manifest(
            name="test",
            variant="test",
            num_samples=number,
            num_bytes=sum(shard.num_bytes for shard in shards),
            funnel={"rows": number, "kept": number, "rejected": {}},
            settings={},
            shards=tuple(shards),
        )
        write_manifest(manifest, str(folder))
        return manifest

    return make
