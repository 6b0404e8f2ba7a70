"""A tiny sealed data set and a labelled one, written with plain tarfile so that tests do not lean on the build.

Pictures are noisy squares of one colour, captions name it: a model learns the colours within a few dozen steps.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.manifest import INDEX_SCHEMA, Manifest, Shard, write_manifest

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


def picture(colour: str, number: int) -> bytes:
    """A JPEG in one colour with noise of its own."""
    noise = np.random.default_rng(number).integers(-30, 30, (40, 48, 3))
    pixels = np.clip(np.asarray(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def colour_of(number: int) -> str:
    """The colour of picture `number`."""
    return list(COLOURS)[number % len(COLOURS)]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    offset = tar.offset
    tar.addfile(info, io.BytesIO(data))
    return offset + 512, len(data)


def _write_shard(folder: Path, name: str, numbers: Iterable[int]) -> Shard:
    buffer, rows = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in numbers:
            key, caption = f"{number:06d}", f"a {colour_of(number)} picture"
            content = {"title": caption, "description": "", "title_usable": True, "description_usable": False}
            blank = {pa.string(): "", pa.bool_(): False}
            row: dict[str, object] = {field.name: blank.get(field.type, 0) for field in INDEX_SCHEMA}
            row |= {"key": key, "image_ext": "jpg", "offset": tar.offset}
            for kind, extension, data in (
                ("image", "jpg", picture(colour_of(number), number)),
                ("json", "json", json.dumps(content).encode()),
                ("txt", "txt", caption.encode()),
            ):
                row[f"{kind}_offset"], row[f"{kind}_size"] = _add(tar, f"{key}.{extension}", data)
            rows.append((row, tar.offset))
    data = buffer.getvalue()
    for row, end in rows:
        start = int(str(row["offset"]))
        row |= {"size": end - start, "sha256": hashlib.sha256(data[start:end]).hexdigest()}
    (folder / f"{name}.tar").write_bytes(data)
    pq.write_table(pa.Table.from_pylist([row for row, _ in rows], schema=INDEX_SCHEMA), folder / f"{name}.parquet")
    return Shard(
        name=f"{name}.tar",
        num_samples=len(rows),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index=f"{name}.parquet",
        index_sha256=hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest(),
    )


def write_shards(folder: Path, counts: Iterable[int]) -> str:
    """A sealed data set with so many samples in each shard; its manifest's path."""
    folder.mkdir(parents=True)
    shards: list[Shard] = []
    first = 0
    for i, count in enumerate(counts):
        shards.append(_write_shard(folder, f"{i:05d}", range(first, first + count)))
        first += count
    manifest = Manifest(
        name="tiny",
        variant="local",
        num_samples=first,
        num_bytes=sum(shard.num_bytes for shard in shards),
        funnel={"rows": first, "kept": first, "rejected": {}},
        settings={},
        shards=tuple(shards),
    )
    write_manifest(manifest, str(folder))
    return str(folder / "manifest.json")


def write_labelled(folder: Path, pictures: Iterable[tuple[bytes, int]], *, per_shard: int = 7) -> str:
    """Pictures with labels in CLIP_benchmark's layout, classes are the colours; the folder."""
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} picture\nthis is {c}, {c}\n")
    todo = list(enumerate(pictures))
    num_shards = -(-len(todo) // per_shard)
    (folder / "test/nshards.txt").write_text(f"{num_shards}\n")
    for shard in range(num_shards):
        with tarfile.open(folder / f"test/{shard}.tar", "w") as tar:
            for number, (image, label) in todo[shard * per_shard : (shard + 1) * per_shard]:
                _add(tar, f"s{number:04d}.jpg", image)
                _add(tar, f"s{number:04d}.cls", str(label).encode())
    return str(folder)
