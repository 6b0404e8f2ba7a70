"""What holds for pictures in every form: all of them come, once, to one rank, in order, one by one or in a row."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import store
from slip.evaluate.catalogue import Catalogue, open_set
from slip.evaluate.labelled import LabelledPicture, LabelledSet
from tests.tiny_data import write_labelled

NUM = 23
NO_CATALOGUE = Catalogue(url="datasets.toml", entries={})


def label_of(number: int) -> int:
    return number % 4


def content_of(number: int) -> bytes:
    """A picture for who does not decode it; number `i` must come out as the i-th."""
    return f"picture {number}".encode()


def folders(root: Path) -> str:
    # Listed by class, so the numbers are given out in that order.
    order = sorted(range(NUM), key=lambda number: (label_of(number), number))
    for number, old in enumerate(order):
        path = root / "folders/test" / f"class {label_of(old)}" / f"{number // 3:02d}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content_of(number))
    return str(root / "folders")


def tars(root: Path) -> str:
    return write_labelled(root / "tars", [(content_of(i), label_of(i)) for i in range(NUM)], per_shard=5)


def in_memory(url: str, name: str) -> str:
    """The same on a store that is no disk."""
    for path in Path(url).rglob("*"):
        if path.is_file():
            store.write_bytes(f"memory://{name}/{path.relative_to(url)}", path.read_bytes())
    return f"memory://{name}"


def parquet(root: Path) -> str:
    (root / "parquet").mkdir()
    for first, last in ((0, 9), (9, NUM)):
        numbers = range(first, last)
        table = pa.table(
            {
                "image": [{"bytes": content_of(i), "path": f"{i}.jpg"} for i in numbers],
                "label": [label_of(i) for i in numbers],
            }
        )
        pq.write_table(table, root / f"parquet/test-{first:05d}.parquet", row_group_size=4)
    return str(root / "parquet")


def torchvision(root: Path) -> str:
    """MNIST as torchvision keeps it: yann.lecun.com/exdb/mnist, "FILE FORMATS" (IDX)."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    pixels = np.arange(NUM, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    labels = np.asarray([label_of(i) for i in range(NUM)], np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, NUM, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, NUM) + labels.tobytes())
    return f"torchvision:MNIST:{root}"


def number_in(picture: LabelledPicture) -> int:
    """Which picture it is, from its content."""
    if isinstance(picture.image, bytes):
        return int(picture.image.split()[-1])
    assert picture.image.shape == (28, 28, 3)
    assert picture.image.dtype == np.uint8
    return int(picture.image[0, 0, 0])


FORMS: dict[str, Callable[[Path], str]] = {
    "folders": folders,
    "folders elsewhere": lambda root: in_memory(folders(root), "folders"),
    "tars": tars,
    "tars elsewhere": lambda root: in_memory(tars(root), "tars"),
    "parquet": parquet,
    "parquet elsewhere": lambda root: in_memory(parquet(root), "parquet"),
    "torchvision": torchvision,
}


@pytest.fixture(params=list(FORMS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> LabelledSet:
    return open_set(FORMS[request.param](tmp_path), NO_CATALOGUE)


def test_ranks_share_all_pictures_in_order(opened: LabelledSet) -> None:
    pictures = opened.splits["test"]
    for world_size in (1, 2, 3, 30):
        parts = [list(pictures.share(rank, world_size)) for rank in range(world_size)]
        for part in parts:
            numbers = [number for number, _ in part]
            assert numbers == sorted(numbers)
            assert [number_in(picture) for _, picture in part] == numbers
        assert sorted(number for part in parts for number, _ in part) == list(range(NUM))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(pictures) == NUM


def test_a_picture_taken_by_itself_is_the_same(opened: LabelledSet) -> None:
    pictures = opened.splits["test"]
    for number, picture in pictures.share(0, 1):
        alone = pictures[number]
        assert (alone.name, alone.label) == (picture.name, picture.label)
        assert np.array_equal(np.frombuffer(alone.image, np.uint8), np.frombuffer(picture.image, np.uint8))
    assert sorted(pictures[i].label for i in range(NUM)) == sorted(map(label_of, range(NUM)))
    with pytest.raises(IndexError):
        pictures[NUM]


def test_what_is_in_a_file_is_not_looked_at(tmp_path: Path) -> None:
    """Bytes come as they are; only the one who decodes says what is damaged."""
    path = tmp_path / "set/test/red/a.PNG"
    path.parent.mkdir(parents=True)
    (tmp_path / "set/test/green").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:-10])
    picture = open_set(str(tmp_path / "set"), NO_CATALOGUE).splits["test"][0]
    assert (picture.image, picture.label, picture.name) == (buffer.getvalue()[:-10], 1, str(path))
