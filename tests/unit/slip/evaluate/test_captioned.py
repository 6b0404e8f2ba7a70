"""Pictures with captions in each of the three forms, and what is said of what is none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError, StoreError
from slip.evaluate.captioned import open_captioned

CAPTIONS = [["a red boat", "a boat"], ["two dogs"], ["night", "the  night\tsky", "dark"]]
PICTURES = [f"picture {number}".encode() for number in range(3)]
SAID = (("a red boat", "a boat"), ("two dogs",), ("night", "the night sky", "dark"))


def write_tars(folder: Path) -> str:
    """Two shards; in the second the text stands before the picture."""
    folder.mkdir()
    for shard, numbers in enumerate(([0, 1], [2])):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in numbers:
                members = [("jpg", PICTURES[number]), ("txt", "\n".join([*CAPTIONS[number], ""]).encode())]
                for extension, data in reversed(members) if shard else members:
                    info = tarfile.TarInfo(f"k{number}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder)


def write_parquet(folder: Path) -> str:
    folder.mkdir()
    for part, rows in enumerate((slice(0, 1), slice(1, 3))):
        images = [{"bytes": data, "path": ""} for data in PICTURES[rows]]
        pq.write_table(pa.table({"image": images, "captions": CAPTIONS[rows]}), folder / f"{part}.parquet")
    return str(folder)


def write_json(folder: Path) -> str:
    """As Karpathy's, with pictures of another split."""
    (folder / "val2014").mkdir(parents=True)
    images = [{"filepath": "val2014", "filename": "no.jpg", "split": "train", "sentences": [{"raw": "no"}]}]
    for number, data in enumerate(PICTURES):
        (folder / f"val2014/{number}.jpg").write_bytes(data)
        said = [{"raw": text, "tokens": text.split()} for text in CAPTIONS[number]]
        images.append({"filepath": "val2014", "filename": f"{number}.jpg", "split": "test", "sentences": said})
    (folder / "dataset_said.json").write_text(json.dumps({"images": images, "dataset": "said"}))
    return str(folder / "dataset_said.json")


def write_list(folder: Path) -> str:
    """A plain list, pictures in images/."""
    (folder / "images").mkdir(parents=True)
    for number, data in enumerate(PICTURES):
        (folder / f"images/{number}.jpg").write_bytes(data)
    rows = [{"path": f"{number}.jpg", "captions": said} for number, said in enumerate(CAPTIONS)]
    (folder / "said.json").write_text(json.dumps(rows))
    return str(folder)


@pytest.mark.parametrize("write", [write_tars, write_parquet, write_json, write_list])
def test_every_form_gives_the_same(tmp_path: Path, write: Callable[[Path], str]) -> None:
    found = open_captioned(write(tmp_path / "said"))
    assert found.captions == SAID
    assert len(found.pictures) == 3
    for world_size in (1, 2):
        shares = [pair for rank in range(world_size) for pair in found.pictures.share(rank, world_size)]
        assert sorted(number for number, _ in shares) == [0, 1, 2]
        assert all(one.image == PICTURES[number] and one.label == number for number, one in shares)
    assert found.pictures[2].image == PICTURES[2]


def no_caption(folder: Path) -> None:
    pq.write_table(pa.table({"image": PICTURES, "captions": [["a"], [" "], ["b"]]}), folder / "x.parquet")


def no_text(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("k0.jpg"), io.BytesIO(b""))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_caption, r"x\.parquet, row 1: no caption"),
        (no_text, r"x\.tar/k0: expected a picture .* and \.txt"),
        (lambda folder: (folder / "x.tar").write_bytes(b"x" * 700), r"x\.tar"),
        (lambda folder: (folder / "x.parquet").write_bytes(b"x"), r"x\.parquet: not a readable Parquet file"),
        (lambda folder: pq.write_table(pa.table({"jpg": PICTURES}), folder / "x.parquet"), "has columns jpg; expected"),
        (lambda folder: (folder / "x.json").write_text("{"), r"x\.json: not JSON"),
        (lambda folder: (folder / "x.json").write_text('[{"path": "a.jpg"}]'), r"x\.json: picture 0 has \['path'\]"),
        (lambda folder: (folder / "x.json").write_text("[]"), "no pictures in it"),
        (lambda folder: [(folder / name).write_text("[]") for name in ("x.json", "y.json")], r"found 2 \.json files"),
        (lambda folder: (folder / "x.txt").write_text(""), "found nothing of the kind"),
    ],
)
def test_what_is_none_is_said_in_one_line(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=reason):
        open_captioned(str(tmp_path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone\.tar"):
        open_captioned(str(tmp_path / "gone.tar"))
