"""CC3M, CC12M, RedCaps and DeCLIP's list as rows."""

from __future__ import annotations

import bz2
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import BuildConfig
from pipeline.errors import InputError
from pipeline.metadata import caption_lists, lines
from pipeline.metadata.caption_lists import photo_id_of, read_list
from pipeline.metadata.metadata import open_chunks, total_bytes
from pipeline.metadata.rows import Chunk, Form
from tests.yfcc_files import config_of, read_all


def annotation(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "image_id": f"id{number}",
        "subreddit": "birdpics",
        "url": f"https://i.redd.it/{number}.jpg",
        "caption": f'a {{bird}} called "{number}" é',
        "raw_caption": f"A bird called {number}!",
        "score": 7,
        "author": "someone",
        "created_utc": 1486832994,
        "permalink": f"/r/birdpics/comments/{number}/a/",
    } | fields


def test_cc3m_and_cc12m(tmp_path: Path) -> None:
    cc3m, cc12m = tmp_path / "train.tsv", tmp_path / "cc12m.tsv"
    captions = ["a boat on the sea", "ein Café\xa0", "100 % of <PERSON>"]
    cc3m.write_text("".join(f"{caption}\thttp://x/{number}.jpg\n" for number, caption in enumerate(captions)))
    cc12m.write_bytes(
        bz2.compress("".join(f"http://x/{number}.jpg\t{caption}\n" for number, caption in enumerate(captions)).encode())
    )
    for path, dataset in ((cc3m, "cc3m"), (cc12m, "cc12m")):
        config = config_of(path, dataset=dataset)
        table, num_malformed, (rows,) = read_all(config)
        assert (num_malformed, rows.is_encoded) == (0, False)
        assert table["description"].to_pylist() == captions
        assert table["url"].to_pylist() == [f"http://x/{number}.jpg" for number in range(3)]
        assert table["key"].to_pylist() == ["000000000", "000000001", "000000002"]
        assert table["title"].to_pylist() == ["", "", ""]
        *_, last = open_chunks(config)
        assert last.done_bytes == total_bytes(config) == path.stat().st_size


def test_malformed_lines_are_counted_and_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    good = [f"http://x/{number}\tcaption {number}".encode() for number in range(6)]
    bad = [b"url\tcaption", b"", b"http://x", b"http://x\ta\tb", b"ftp://x\ta"]
    path.write_bytes(b"\n".join([*bad, *good[:3], b"http://x\t\xff\xfe", *good[3:]]))
    table, num_malformed, _ = read_all(config_of(path, dataset="cc12m"))
    assert num_malformed == 5
    assert table["row"].to_pylist() == list(range(5, 12))
    assert table["key"].to_pylist()[0] == "000000005"
    assert table["description"].to_pylist()[3] == "\ufffd\ufffd"


@pytest.mark.parametrize(("dataset", "other"), [("cc3m", "cc12m"), ("cc12m", "cc3m")])
def test_swapped_columns_are_said(tmp_path: Path, dataset: str, other: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("a boat\thttp://x/1.jpg\n" if other == "cc3m" else "http://x/1.jpg\ta boat\n")
    with pytest.raises(InputError, match=f"list.tsv: this is not {dataset.upper()}'s list .*pass --dataset {other}"):
        list(open_chunks(config_of(path, dataset=dataset)))


@pytest.mark.parametrize("dataset", ["cc3m", "cc12m"])
@pytest.mark.parametrize("content", ["a,b\nc,d\n", '{"url": "http://x"}\n', "a boat\tno link\n"])
def test_other_lists_are_refused(tmp_path: Path, dataset: str, content: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"list\.tsv: \d of the first \d lines are not of CC.*line 1 begins with"):
        list(open_chunks(config_of(path, dataset=dataset)))


@pytest.mark.parametrize(
    ("url", "photo_id"),
    [
        ("http://farm1.staticflickr.com/32/35753787_a592e00d5f.jpg", 35753787),
        ("https://live.staticflickr.com/1/2_a5_b.jpg", 2),
        ("http://farm1.staticflickr.com/32/35753787.jpg", -1),
        ("http://x/abc_def.jpg", -1),
        ("http://x/1234567890123456789_a.jpg", -1),
        ("http://x/١٢_a.jpg", -1),
    ],
)
def test_photo_id_in_a_url(url: str, photo_id: int) -> None:
    assert photo_id_of(url) == photo_id


def test_declips_list(tmp_path: Path) -> None:
    path = tmp_path / "yfcc15m_clean_open_data.json"
    flickr = "http://farm1.staticflickr.com/2/{}_a5.jpg"
    found = [
        {"filename": "0.jpg", "url": flickr.format(357), "caption": "A boat\u2028\nat sea"},
        {"filename": "1.jpg", "url": "http://x/other.jpg", "caption": "half \ud800"},
        {"filename": "2.jpg", "url": flickr.format(9), "caption": ""},
    ]
    bad = ['{"url": "http://x"}', "[]", '{"url": 5, "caption": "a"}', "{", '{"url": "http://x", "caption": ["a"]}']
    path.write_text("\n".join([json.dumps(found[0]), *bad, json.dumps(found[1]), *[json.dumps(found[2])] * 5]))
    config = BuildConfig(variant="declip", subset_list=str(path), output="unused")
    table, num_malformed, _ = read_all(config)
    assert num_malformed == len(bad)
    assert table["photo_id"].to_pylist() == [357, -1, 9, 9, 9, 9, 9]
    assert table["key"].to_pylist() == ["", "000000006", "", "", "", "", ""]
    assert table["description"].to_pylist()[:3] == ["A boat\u2028\nat sea", "half ?", ""]
    path.write_text("line\tphoto\tkey\n")
    with pytest.raises(InputError, match="not of DeCLIP's list"):
        list(open_chunks(config))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("piece", [50, 1 << 20])
def test_redcaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, piece: int) -> None:
    monkeypatch.setattr(caption_lists, "_READ_CHARACTERS", piece)
    monkeypatch.setattr(caption_lists, "_CHUNK_CHARACTERS", 4 * piece)
    bad: list[Any] = [{"url": "http://x"}, 12.5, None, annotation(0, url=None), annotation(0, caption=None)]
    first = [annotation(0), *bad, annotation(1, image_id="a/b", created_utc=None, author=None, permalink=None)]
    (tmp_path / "birdpics_2017.json").write_text(
        json.dumps({"info": {"a": [{}]}, "annotations": first}, indent=indent), encoding="utf-8-sig"
    )
    (tmp_path / "birdpics_2018.json").write_text(
        json.dumps({"annotations": [annotation(number) for number in range(2, 20)], "info": {}}, ensure_ascii=False)
    )
    config = config_of(tmp_path, dataset="redcaps")
    table, num_malformed, batches = read_all(config)
    assert num_malformed == len(bad)
    assert table["row"].to_pylist() == [0, *range(6, 25)]
    assert table["key"].to_pylist() == ["id0", "000000006", *(f"id{number}" for number in range(2, 20))]
    assert table.slice(0, 1).to_pylist()[0] == {
        "row": 0,
        "line": -1,
        "photo_id": -1,
        "bucket_key": "",
        "is_video": False,
        "key": "id0",
        "url": "https://i.redd.it/0.jpg",
        "title": "",
        "description": 'a {bird} called "0" é',
        "user": "someone",
        "date_taken": "2017-02-11 17:09:54",
        "page_url": "https://www.reddit.com/r/birdpics/comments/0/a/",
        "license": "",
        "license_url": "",
    }
    assert (table["user"][1].as_py(), table["date_taken"][1].as_py(), table["page_url"][1].as_py()) == ("", "", "")
    assert (len(batches) > 4) == (piece == 50)
    *_, last = open_chunks(config)
    assert last.done_bytes == total_bytes(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"info": {}, "annotations": [' + json.dumps(annotation(0)) + ", {", "damaged or cut short"),
        ('{"info": {}, "annotations": [' + json.dumps(annotation(0)), "'' instead of ','"),
        ('{"info": {}, "annotations": [] ', "'' instead of ','"),
        ('{"info": {}}', "a document without annotations"),
        ("[1, 2]", r"'\[' instead of '{'"),
        ("a\tb\n", "'a' instead of '{'"),
        ('{"annotations": {}}', "'{' instead of"),
    ],
)
def test_damaged_redcaps(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "birdpics_2017.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message + r".* near byte \d+; expected RedCaps' annotations"):
        list(open_chunks(config_of(path, dataset="redcaps")))


def test_an_endless_value_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_lists, "_READ_CHARACTERS", 100)
    monkeypatch.setattr(caption_lists, "_MAX_VALUE_CHARACTERS", 1000)
    path = tmp_path / "a.json"
    path.write_text('{"annotations": ["' + "x" * 10_000_000)
    with pytest.raises(InputError, match=r"near byte \d{1,4};"):
        list(open_chunks(config_of(path, dataset="redcaps")))


FORMS = st.sampled_from(["cc3m", "cc12m", "redcaps", "declip"])


@given(FORMS, st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_malformed_rows_at_worst(form: Form, data: bytes) -> None:
    text = data + b"\n"
    count = text.count(b"\n")
    chunk = Chunk(url="memory", form=form, first_row=0, num_rows=count, done_bytes=0, data=text, start=1)
    rows = read_list(chunk, None)
    assert rows.batch.num_rows + rows.num_malformed == count
    rows.batch.validate(full=True)


@pytest.mark.parametrize("form", ["cc3m", "cc12m", "redcaps", "declip"])
def test_mutated_lists_never_crash_and_each_line_is_counted(form: Form) -> None:
    rng = random.Random(5)
    line = {
        "cc3m": b"a boat\thttp://x/1.jpg\n",
        "cc12m": b"http://x/1.jpg\ta boat\n",
        "redcaps": json.dumps(annotation(1)).encode() + b"\n",
        "declip": b'{"url": "http://x/1_a.jpg", "caption": "a boat"}\n',
    }[form]
    num_good = 0
    for _ in range(300):
        text = bytearray(line * 20)
        for _ in range(rng.randrange(10)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(3)] = rng.choice(
                [b"\t", b"\n", b"\0", b'"', b"\\", b"\\ud800", b"\xff", b"1e999"]
            )
        data = bytes(text).rstrip(b"\n") + b"\n"
        count = data.count(b"\n")
        rows = read_list(Chunk(url="m", form=form, first_row=0, num_rows=count, done_bytes=0, data=data, start=1), None)
        assert rows.batch.num_rows + rows.num_malformed == count
        rows.batch.validate(full=True)
        num_good += rows.batch.num_rows
    assert num_good > 300 * 10


def test_long_lists_come_in_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    path = tmp_path / "list.tsv"
    path.write_text("".join(f"http://x/{number}\tcaption {number}\n" for number in range(500)))
    table, _, batches = read_all(config_of(path, dataset="cc12m"))
    assert len(batches) > 10
    assert table["key"].to_pylist() == [f"{number:09d}" for number in range(500)]
