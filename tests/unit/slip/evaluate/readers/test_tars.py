"""WebDataset tars: what is read, and what is said when something is wrong, on a disk and elsewhere."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import InputError, StoreError
from slip.evaluate.labelled import LabelledPicture, LabelledSet
from slip.evaluate.readers.classes import Wanted
from slip.evaluate.readers.tars import open_tars
from tests.tiny_data import COLOURS, write_labelled

PLACES = pytest.mark.parametrize("place", ["disk", "elsewhere"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(write_labelled(tmp_path / "set", [(f"picture {i}".encode(), i % 4) for i in range(17)], per_shard=5))


def placed(folder: Path, place: str) -> str:
    if place == "disk":
        return str(folder)
    for path in folder.rglob("*.*"):
        store.write_bytes(f"memory:/{path}", path.read_bytes())
    return f"memory:/{folder}"


def opened(url: str) -> LabelledSet:
    return open_tars(url, Wanted(name="colours"))


def read_all(url: str, split: str = "test") -> list[LabelledPicture]:
    return [picture for _, picture in opened(url).splits[split].share(0, 1)]


def write_tar(path: Path, members: list[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@PLACES
def test_everything_is_read_in_order(folder: Path, place: str) -> None:
    url = placed(folder, place)
    labelled = opened(url)
    assert labelled.classnames == tuple((colour,) for colour in COLOURS)
    assert labelled.templates == ("a {c} picture", "this is {c}, {c}")
    assert set(labelled.splits) == {"test"}
    pictures = read_all(url)
    assert [p.image for p in pictures] == [f"picture {i}".encode() for i in range(17)]
    assert [p.label for p in pictures] == [i % 4 for i in range(17)]
    assert pictures[7].name == f"{url}/test/1.tar/s0007"


def test_a_training_split_is_found(folder: Path) -> None:
    (folder / "train").mkdir()
    (folder / "train/nshards.txt").write_text("1")
    write_tar(folder / "train/0.tar", [("a.cls", b"2\n"), ("a.jpg", b"first")])
    assert [(p.image, p.label) for p in read_all(str(folder), "train")] == [(b"first", 2)]


@PLACES
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_members_are_passed_over(folder: Path, place: str, tar_format: int) -> None:
    long = "deep/" * 25 + "b"
    members = [
        ("./a.json", b"{}"),
        ("./a.JPG", b"A"),
        ("./a.cls", b"1"),
        ("notes", b"x"),
        ("__meta__/x.cls", b"9"),
    ]
    write_tar(folder / "test/0.tar", [*members, (f"{long}.png", b"B"), (f"{long}.cls", b"3")], tar_format)
    found = read_all(placed(folder, place))[:2]
    assert [(p.image, p.label) for p in found] == [(b"A", 1), (b"B", 3)]


@PLACES
def test_a_class_without_picture_is_named_once(tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(write_labelled(tmp_path / "set", [(b"x", i % 3) for i in range(6)]))
    pictures = opened(placed(folder, place)).splits["test"]
    with caplog.at_level(logging.WARNING):
        list(pictures.share(0, 2))
        list(pictures.share(1, 2))
        len(pictures)
    assert caplog.text.count("no picture of 'yellow' in its test split (1 of 4 classes)") == 1


def test_published_names_and_prompts_come_first(folder: Path) -> None:
    (folder / "zeroshot_classification_templates.txt").unlink()
    classnames = (("blue",), ("green",), ("crimson", "red"), ("yellow",))
    labelled = open_tars(str(folder), Wanted(name="x", classnames=classnames, templates=("{c}!",)))
    assert labelled.classnames == (("crimson", "red"), ("green",), ("blue",), ("yellow",))
    assert labelled.templates == ("{c}!",)


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/2.tar"]
)
@PLACES
def test_a_missing_file_is_named(folder: Path, name: str, place: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreError, match=name):
        read_all(placed(folder, place))


def test_a_training_split_that_was_asked_for_must_be_there(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"fit/nshards\.txt"):
        open_tars(str(folder), Wanted(name="x", splits={"train": "fit"}))


@PLACES
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classnames.txt", "red\n", "1 classes; at least 2"),
        ("classnames.txt", "red\ngreen\nblue\n", r"s0003\.cls: label 3, expected 0 to 2: classnames.txt has 3"),
        ("zeroshot_classification_templates.txt", "a {c} picture\na photo\n", r"'a photo' has no \{c\}"),
        ("zeroshot_classification_templates.txt", "\n", "no prompts"),
        ("test/nshards.txt", "four", "found 'four', expected the number"),
        ("test/0.tar", "<html>404</html>", r"0\.tar"),
        ("test/0.tar", "", r"0\.tar"),
    ],
)
def test_a_malformed_file_is_named(folder: Path, name: str, text: str, words: str, place: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_all(placed(folder, place))


@PLACES
@pytest.mark.parametrize("where", ["between members", "inside a member", "inside a picture"])
def test_a_cut_tar_is_not_taken_for_a_short_one(folder: Path, where: str, place: str) -> None:
    path = folder / "test/1.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[4].offset
    path.write_bytes(path.read_bytes()[: offset + {"between members": 0, "inside a member": 300}.get(where, 515)])
    with pytest.raises(InputError, match=r"1\.tar"):
        read_all(placed(folder, place))


@PLACES
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", b"x")], r"a: found \['jpg'\], expected a picture .* and \.cls"),
        ([("a.gif", b"x"), ("a.cls", b"0")], "expected a picture"),
        ([("a.png", b"x"), ("a.cls", b"cat")], r"a\.cls: found b'cat'"),
        ([("a.png", b"x"), ("a.cls", b"1" * 99)], r"a\.cls: found b'\.\.\.', expected a class number"),
        ([("a.webp", b"x"), ("a.cls", b"-1")], r"label -1, expected 0 to 3"),
        ([("a.jpg", b"x"), ("a.cls", b"0"), ("a.cls", b"0")], r"a: two members end in \.cls"),
    ],
)
def test_a_malformed_sample_is_named(folder: Path, members: list[tuple[str, bytes]], words: str, place: str) -> None:
    write_tar(folder / "test/0.tar", members)
    with pytest.raises(InputError, match=words):
        read_all(placed(folder, place))


@PLACES
def test_no_pictures_is_an_error(folder: Path, place: str) -> None:
    (folder / "test/nshards.txt").write_text("1")
    write_tar(folder / "test/0.tar", [])
    with pytest.raises(InputError, match="no pictures in its 1 shards"):
        read_all(placed(folder, place))
