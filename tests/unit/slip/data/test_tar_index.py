"""One tar indexed: samples as webdataset groups them, every offset and digest that of the tar's own bytes."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from typing import Any

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slip.data import tar_index as t
from slip.data.decode import MAX_PIXELS
from tests.tars_of_others import GOOD, JPG, members, picture, tar_of

PNG, WEBP = picture("PNG", (5, 3)), picture("WEBP", (4, 8))


def indexed(data: bytes) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows and rejections, after every row was compared with the tar."""
    found = t.index_tar(io.BytesIO(data), "x.tar")
    assert (found.num_bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    rows: list[dict[str, Any]] = found.index.to_pylist()
    for row in rows:
        whole = data[row["offset"] : row["offset"] + row["size"]]
        image = data[row["image_offset"] : row["image_offset"] + row["image_size"]]
        assert row["sha256"] == hashlib.sha256(whole).hexdigest()
        assert row["image_sha256"] == hashlib.sha256(image).hexdigest()
        assert row["offset"] + 512 <= row["json_offset"] <= row["offset"] + row["size"]
        assert row["json_size"] == 0
        with Image.open(io.BytesIO(image)) as opened:
            assert opened.size == (row["width"], row["height"])
    return rows, found.rejected


def texts(data: bytes, rows: list[dict[str, Any]]) -> list[bytes]:
    return [data[row["txt_offset"] : row["txt_offset"] + row["txt_size"]] for row in rows]


def test_img2dataset_s_output() -> None:
    data = tar_of([m for i in range(3) for m in members(f"{i:09d}", GOOD)])
    rows, rejected = indexed(data)
    assert [row["key"] for row in rows] == ["000000000", "000000001", "000000002"]
    assert [row["offset"] for row in rows[1:]] == [row["offset"] + row["size"] for row in rows[:-1]]
    assert texts(data, rows) == [b"a boat"] * 3
    assert rejected == {}
    blank = {name: rows[0][name] for name in ("title", "description", "title_usable", "description_usable", "url")}
    assert blank == {"title": "", "description": "", "title_usable": False, "description_usable": False, "url": ""}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"txt": b"a boat"}, "no_image"),
        ({"gif": JPG, "txt": b"a boat"}, "no_image"),
        ({"jpg": JPG}, "no_caption"),
        ({"jpg": JPG, "txt": b" \n"}, "no_caption"),
        ({"jpg": b"<html>", "txt": b"a boat"}, "not_an_image"),
        ({"jpg": b"", "txt": b"a boat"}, "not_an_image"),
        ({"jpg": JPG[:20], "txt": b"a boat"}, "not_an_image"),
        ({"jpg": picture("GIF"), "txt": b"a boat"}, "not_an_image"),
        ({"jpg": JPG, "JPG": JPG, "txt": b"a boat"}, "duplicate_member"),
    ],
)
def test_what_is_rejected_is_counted(content: dict[str, bytes], reason: str) -> None:
    data = tar_of([*members("0", GOOD), *members("1", content), *members("2", GOOD)])
    rows, rejected = indexed(data)
    assert ([row["key"] for row in rows], rejected) == (["0", "2"], {reason: 1})


def test_a_key_that_comes_back() -> None:
    data = tar_of([*members("0", GOOD), *members("1", GOOD), *members("0", GOOD)])
    rows, rejected = indexed(data)
    assert ([row["key"] for row in rows], rejected) == (["0", "1"], {"duplicate_key": 1})


def test_more_pixels_than_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t, "MAX_PIXELS", 62)
    assert indexed(tar_of(members("0", GOOD)))[1] == {"bomb": 1}
    monkeypatch.setattr(t, "MAX_PIXELS", 63)
    assert len(indexed(tar_of(members("0", GOOD)))[0]) == 1
    assert MAX_PIXELS > 63


def test_a_member_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t, "MAX_MEMBER_BYTES", 2000)
    data = tar_of([*members("0", GOOD), *members("1", GOOD | {"npy": bytes(2001)}), *members("2", GOOD)])
    rows, rejected = indexed(data)
    assert ([row["key"] for row in rows], rejected) == (["0", "2"], {"member_too_large": 1})


def test_a_name_that_is_not_utf8() -> None:
    data = tar_of([*members("a\udcff", GOOD), *members("b", GOOD)])
    rows, rejected = indexed(data)
    assert ([row["key"] for row in rows], rejected) == (["b"], {"name_not_utf8": 1})


@pytest.mark.parametrize(
    ("content", "ext", "caption"),
    [
        ({"PNG": PNG, "caption": b"c", "text": b"t"}, "png", b"t"),
        ({"png": PNG, "jpeg": JPG, "caption": b"c"}, "jpg", b"c"),
        ({"webp": WEBP, "text": b"t", "txt": b"x"}, "webp", b"x"),
        ({"jpg": PNG, "txt": "ü".encode("latin-1")}, "png", b"\xfc"),
        ({"cls": b"7", "jpg": JPG, "seg.png": PNG, "txt": b"x"}, "jpg", b"x"),
    ],
)
def test_which_members_count(content: dict[str, bytes], ext: str, caption: bytes) -> None:
    data = tar_of(members("k", content))
    rows, _ = indexed(data)
    assert [row["image_ext"] for row in rows] == [ext]
    assert texts(data, rows) == [caption]


def test_members_of_no_sample_between_and_within() -> None:
    long = "d" * 120 + "/"
    data = tar_of(
        [
            ("dir/", b""),
            ("__meta__/x.jpg", b"1"),
            (".hidden.jpg", b"2"),
            *members(f"{long}0", {"jpg": JPG}),
            ("Makefile", b"3" * 600),
            ("dir/", b""),
            *members(f"{long}0", {"txt": b"x"}),
            ("LICENSE", b"4"),
            *members(f"{long}1", GOOD),
        ]
    )
    rows, rejected = indexed(data)
    assert ([row["key"] for row in rows], rejected) == ([f"{long}0", f"{long}1"], {})
    # LICENSE lies between the samples, in neither.
    assert rows[0]["offset"] + rows[0]["size"] + 1024 == rows[1]["offset"]


EXTENSIONS = ["jpg", "JPG", "png", "txt", "json", "seg.png"]
KEYS = ["0", "a/1", "a/2", "b.c/3", "é"]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(deadline=None, max_examples=40)
@given(names=st.lists(st.tuples(st.sampled_from(KEYS), st.lists(st.sampled_from(EXTENSIONS), max_size=4)), max_size=7))
def test_samples_are_those_webdataset_sees(tar_format: int, names: list[tuple[str, list[str]]]) -> None:
    draw = random.Random(str(names))
    contents = {"jpg": JPG, "JPG": JPG, "png": PNG, "seg.png": PNG}
    listed = [
        (f"{key}.{ext}", contents.get(ext) or draw.randbytes(3).hex().encode()) for key, exts in names for ext in exts
    ]
    data = tar_of(listed, tar_format)
    twice: list[Exception] = []

    def note(error: Exception) -> bool:
        twice.append(error)
        return True

    files = webdataset.tariterators.tar_file_iterator(io.BytesIO(data))
    listing = ({**file, "__url__": "x"} for file in files)
    groups: list[dict[str, Any]] = list(webdataset.tariterators.group_by_keys(listing, handler=note))
    rows, rejected = indexed(data)
    assert ("duplicate_member" in rejected) == bool(twice)
    if twice:
        return
    usable = [group for group in groups if group.keys() & {"jpg", "png"} and "txt" in group]
    expected = list(dict.fromkeys(group["__key__"] for group in usable))
    assert [row["key"] for row in rows] == expected
    first = {group["__key__"]: group for group in reversed(usable)}
    assert texts(data, rows) == [first[key]["txt"] for key in expected]
    assert len(rows) + sum(rejected.values()) == len(groups)
