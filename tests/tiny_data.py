"""Tiny sealed data sets and a labelled one, written with plain tarfile so that tests do not lean on the build.

`write_set` takes any samples. Those of `write_shards` are noisy squares of one colour, captions name it: a model learns
the colours within a few dozen steps.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
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


def write_shard(folder: Path, name: str, samples: Iterable[tuple[str, dict[str, bytes]]]) -> Shard:
    """Write NAME.tar and NAME.parquet; a sample is (key, {extension: content}), its members in this order."""
    buffer = io.BytesIO()
    rows: list[dict[str, object]] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            start = tar.offset
            blank = {pa.string(): "", pa.bool_(): False}
            row: dict[str, object] = {field.name: blank.get(field.type, 0) for field in INDEX_SCHEMA}
            row |= {"key": key, "offset": start}
            for extension, data in members.items():
                kind = extension if extension in {"txt", "json"} else "image"
                if kind == "image":
                    row["image_ext"] = extension
                row[f"{kind}_offset"], row[f"{kind}_size"] = _add(tar, f"{key}.{extension}", data)
            written = bytes(buffer.getbuffer()[start : tar.offset])
            row |= {"size": len(written), "sha256": hashlib.sha256(written).hexdigest(), "crc32": zlib.crc32(written)}
            rows.append(row)
    data = buffer.getvalue()
    (folder / f"{name}.tar").write_bytes(data)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / f"{name}.parquet")
    return Shard(
        name=f"{name}.tar",
        num_samples=len(rows),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index=f"{name}.parquet",
        index_sha256=hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest(),
    )


def seal(base_url: str, shards: Sequence[Shard]) -> Manifest:
    """Write the manifest of shards that are there."""
    kept = sum(shard.num_samples for shard in shards)
    manifest = Manifest(
        name="tiny",
        variant="local",
        num_samples=kept,
        num_bytes=sum(shard.num_bytes for shard in shards),
        funnel={"rows": kept, "kept": kept, "rejected": {}},
        settings={},
        shards=tuple(shards),
    )
    write_manifest(manifest, base_url)
    return manifest


def write_set(folder: Path, counts: Iterable[int], sample: Callable[[int], dict[str, bytes]]) -> Manifest:
    """A sealed data set with so many samples in each shard; `sample` gives the members of sample number n."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    first = 0
    for i, count in enumerate(counts):
        samples = ((f"{n:06d}", sample(n)) for n in range(first, first + count))
        shards.append(write_shard(folder, f"{i:05d}", samples))
        first += count
    return seal(str(folder), shards)


def _coloured(number: int) -> dict[str, bytes]:
    caption = f"a {colour_of(number)} picture"
    content = {"title": caption, "description": "", "title_usable": True, "description_usable": False}
    image = picture(colour_of(number), number)
    return {"jpg": image, "json": json.dumps(content).encode(), "txt": caption.encode()}


def write_shards(folder: Path, counts: Iterable[int]) -> str:
    """A sealed data set of coloured pictures with so many in each shard; its manifest's path."""
    write_set(folder, counts, _coloured)
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
