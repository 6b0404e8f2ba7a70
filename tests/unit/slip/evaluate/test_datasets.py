"""Labelled sets: what is read, how ranks share it, what is said when something is wrong."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import InputError, StoreError
from slip.evaluate.datasets import LabelledPicture, open_labelled_set, read_pictures
from tests.tiny_data import COLOURS, write_labelled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(write_labelled(tmp_path / "set", [(f"picture {i}".encode(), i % 4) for i in range(17)], per_shard=5))


def read_all(url: str, rank: int = 0, world_size: int = 1) -> list[LabelledPicture]:
    return list(read_pictures(open_labelled_set(url), rank=rank, world_size=world_size))


def test_everything_is_read_in_order(folder: Path) -> None:
    labelled = open_labelled_set(str(folder))
    assert labelled.classnames == tuple(COLOURS)
    assert labelled.prompts("red") == ["a red picture", "this is red, red"]
    assert labelled.num_shards == 4
    pictures = read_all(str(folder))
    assert [p.image for p in pictures] == [f"picture {i}".encode() for i in range(17)]
    assert [p.label for p in pictures] == [i % 4 for i in range(17)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
def test_ranks_share_the_pictures(folder: Path, world_size: int) -> None:
    parts = [read_all(str(folder), rank, world_size) for rank in range(world_size)]
    assert sorted(p.name for part in parts for p in part) == [p.name for p in read_all(str(folder))]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_url_is_read_like_a_folder(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        store.write_bytes(f"memory://labelled/{path.relative_to(folder)}", path.read_bytes())
    assert [p.image for p in read_all("memory://labelled")] == [p.image for p in read_all(str(folder))]


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/2.tar"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreError, match=name):
        read_all(str(folder))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classnames.txt", "red\n", "1 class names"),
        ("classnames.txt", "red\ngreen\nblue\n", r"s0003\.cls: label 3, expected 0 to 2"),
        ("zeroshot_classification_templates.txt", "a {c} picture\na photo\n", r"'a photo' has no \{c\}"),
        ("zeroshot_classification_templates.txt", "\n", "no prompts"),
        ("test/nshards.txt", "four", "found 'four', expected the number"),
        ("test/0.tar", "<html>404</html>", r"0\.tar"),
    ],
)
def test_a_malformed_file_is_named(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_all(str(folder))


@pytest.mark.parametrize("where", ["between members", "inside a member"])
def test_a_cut_tar_is_not_taken_for_a_short_one(folder: Path, where: str) -> None:
    path = folder / "test/1.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[4].offset
    path.write_bytes(path.read_bytes()[: offset + (0 if where == "between members" else 515)])
    with pytest.raises(InputError, match=r"1\.tar"):
        read_all(str(folder))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.jpg": b"x"}, r"a: found \['jpg'\], expected a picture .* and \.cls"),
        ({"a.gif": b"x", "a.cls": b"0"}, "expected a picture"),
        ({"a.png": b"x", "a.cls": b"cat"}, r"a\.cls: found b'cat'"),
        ({"a.webp": b"x", "a.cls": b"-1"}, r"label -1, expected 0 to 3"),
    ],
)
def test_a_malformed_sample_is_named(folder: Path, members: dict[str, bytes], words: str) -> None:
    with tarfile.open(folder / "test/0.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(InputError, match=words):
        read_all(str(folder))
