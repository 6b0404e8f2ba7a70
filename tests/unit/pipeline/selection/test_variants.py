"""The variants, through the whole select stage: what each takes, and as what."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captions.captions import paper_caption
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError, InputError
from pipeline.metadata.text import V1_COLUMNS, V2_COLUMNS
from pipeline.records import Funnel, Reason
from pipeline.selection.selection import num_units, part_path, select
from pipeline.selection.variants import bucket_keys

ENGLISH = "The old lighthouse stood on the cliff above the sea."
GERMAN = "Der alte Leuchtturm steht auf der Klippe über dem Meer."


def url_of(photo_id: int) -> str:
    return f"http://farm1.staticflickr.com/5/{photo_id}_ab.jpg"


def key_of(photo_id: int) -> str:
    return "".join(f"{byte:x}" for byte in hashlib.md5(url_of(photo_id).encode()).digest())


def row(line: int, photo_id: int, *, title: str = "A boat", description: str = "", **fields: str) -> dict[str, str]:
    texts = {"title": quote_plus(title), "description": quote_plus(description), "user": "J%2BJ"}
    numbers = {"line": str(line), "photo_id": str(photo_id), "bucket_key": key_of(photo_id), "marker": "0"}
    return dict.fromkeys(V2_COLUMNS, "") | numbers | texts | {"url": url_of(photo_id)} | fields


def run(
    folder: Path, rows: list[dict[str, str]], listed: str | None = None, *, v1: bool = False, **settings: Any
) -> tuple[Funnel, list[dict[str, Any]]]:
    """The funnel and the selected rows."""
    columns = V1_COLUMNS if v1 else V2_COLUMNS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.tsv").write_text("".join("\t".join(r[name] for name in columns) + "\n" for r in rows))
    if listed is not None:
        (folder / "list").write_text(listed)
        settings["subset_list"] = str(folder / "list")
    config = BuildConfig(metadata=(str(folder / "rows.tsv"),), output="out", processes=1, **settings)
    funnel = select(config, folder / "work")
    parts = [pq.read_table(part_path(folder / "work", unit)) for unit in range(num_units(folder / "work"))]
    return funnel, pa.concat_tables(parts).to_pylist()


def rejected(funnel: Funnel) -> dict[str, int]:
    return {str(reason): count for reason, count in funnel.rejected.items() if count}


def listing(*photos: tuple[int, int], key: str | None = None) -> str:
    return "".join(f"{line}\t{photo}\t{key_of(photo) if key is None else key}\n" for line, photo in photos)


@pytest.mark.parametrize("join_by", ["auto", "line", "photo_id", "key"])
def test_openai_by_any_column_gives_the_same_rows(tmp_path: Path, join_by: str) -> None:
    rows = [row(line, 100 - line) for line in range(10)]
    funnel, found = run(tmp_path, rows, listing((3, 97), (5, 95), (9, 91)), join_by=join_by)
    assert [(r["line"], r["photo_id"], r["bucket_key"]) for r in found] == [
        (line, 100 - line, key_of(100 - line)) for line in (3, 5, 9)
    ]
    assert rejected(funnel) == {"not_in_list": 7}


def test_metadata_without_lines_is_joined_by_photo_id_and_takes_line_and_key_from_the_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = [row(line, 100 - line) for line in range(10)]
    _, found = run(tmp_path, rows, listing((3, 97), (5, 95), key="fromthelist"), v1=True)
    assert [(r["key"], r["row"], r["line"], r["bucket_key"]) for r in found] == [
        ("97", 3, 3, "fromthelist"),
        ("95", 5, 5, "fromthelist"),
    ]
    assert "2 rows, joined by photo id" in caplog.text
    with pytest.raises(InputError, match=r"matches nothing.*line 3 with photo 97, the metadata with photo 100"):
        run(tmp_path / "by_line", rows, listing((3, 97)), v1=True, join_by="line")


@pytest.mark.parametrize(
    ("join_by", "said"), [("line", "line 3, photo 97"), ("photo_id", "line 3, photo 97"), ("key", "line 3, photo 97")]
)
def test_what_contradicts_the_list_is_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, join_by: str, said: str
) -> None:
    listed = f"3\t97\t{key_of(90)}\n" if join_by != "key" else f"3\t90\t{key_of(97)}\n"
    funnel, found = run(tmp_path, [row(3, 97), row(4, 96)], listed + listing((4, 96)), join_by=join_by)
    assert [r["photo_id"] for r in found] == [96]
    assert rejected(funnel) == {"list_mismatch": 1}
    assert said in caplog.text
    assert key_of(97) in caplog.text


def test_only_the_first_few_contradictions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(line, 100 - line) for line in range(40)]
    listed = listing(*((line, 500 + line) for line in range(39)), key="") + listing((39, 61))
    funnel, _ = run(tmp_path, rows, listed)
    assert rejected(funnel) == {"list_mismatch": 39}
    assert 1 <= caplog.text.count("contradict each other") <= 5


def test_bucket_keys_are_computed_where_nobody_knows_them(tmp_path: Path) -> None:
    _, found = run(tmp_path, [row(0, 7)], listing((0, 7), key=""), v1=True)
    assert found[0]["bucket_key"] == key_of(7)
    assert bucket_keys([url_of(7), url_of(7).replace("http://", "https://")]) == [key_of(7)] * 2
    assert bucket_keys([]) == []


def declip(*entries: tuple[int, str]) -> str:
    lines = ({"filename": f"{photo}.jpg", "url": url_of(photo), "caption": caption} for photo, caption in entries)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


DECLIP = declip(
    (97, "a list's caption & <b>more</b>"), (95, "100%25 é"), (93, "IMG_1234"), (50, "nowhere"), (97, "again")
)


def test_declip_takes_its_own_captions_and_the_metadata_s_attribution(tmp_path: Path) -> None:
    rows = [row(line, 100 - line, title="not this") for line in range(10)] + [row(10, 97), row(11, 95, marker="1")]
    funnel, found = run(tmp_path, rows, DECLIP, variant="declip")
    assert [(r["key"], r["title"], r["description"], r["title_usable"], r["user"]) for r in found] == [
        ("97", "", "a list's caption & more", False, "J+J"),
        ("95", "", "100%25 é", False, "J+J"),
    ]
    assert rejected(funnel) == {"not_in_list": 7, "duplicate_row": 2, "junk_caption": 1}
    _, paper = run(tmp_path / "paper", rows, DECLIP, variant="declip", captions="paper")
    assert [(r["description"], r["title_usable"], r["description_usable"]) for r in paper] == [
        ("a list's caption & <b>more</b>", False, True),
        ("100%25 é", False, True),
        ("IMG_1234", False, True),
    ]


def test_declip_without_metadata_takes_the_list_s_rows(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(DECLIP)
    config = BuildConfig(variant="declip", subset_list=str(tmp_path / "list.json"), output="out", processes=1)
    funnel = select(config, tmp_path / "work")
    found = pq.read_table(part_path(tmp_path / "work", 0)).to_pylist()
    assert [(r["key"], r["row"], r["url"], r["bucket_key"]) for r in found] == [
        (str(photo), position, url_of(photo), key_of(photo)) for position, photo in ((0, 97), (1, 95), (3, 50))
    ]
    assert rejected(funnel) == {"duplicate_row": 1, "junk_caption": 1}


def english_rows() -> list[dict[str, str]]:
    texts = [
        ("IMG_1234", ENGLISH),
        ("Der Turm im Sommer", ENGLISH),
        (ENGLISH, ""),
        (ENGLISH, GERMAN),
        ("", ""),
        ("", "DSC00123"),
        ("DSC00123", GERMAN),
        ("", "sunset"),
        (ENGLISH, "<br>"),
        ("", ENGLISH),
    ]
    rows = [row(n, 100 + n, title=title, description=text) for n, (title, text) in enumerate(texts)]
    return [*rows, row(10, 100, description=ENGLISH), row(11, 111, description=ENGLISH, marker="1")]


def test_english_looks_at_the_description(tmp_path: Path) -> None:
    funnel, found = run(tmp_path, english_rows(), variant="english")
    assert [(r["row"], r["title_usable"], r["description_usable"]) for r in found] == [
        (0, False, True),
        (1, False, True),  # what is drawn is English
        (9, False, True),
    ]
    assert rejected(funnel) == {
        "duplicate_row": 1,
        "video": 1,
        "no_caption": 3,
        "junk_caption": 2,
        "not_english": 2,
    }


def test_english_looks_at_both_when_told(tmp_path: Path) -> None:
    funnel, found = run(tmp_path, english_rows(), variant="english", caption_fields="title,description")
    assert [(r["row"], r["title_usable"], r["description_usable"]) for r in found] == [
        (0, False, True),
        (1, False, True),
        (2, True, False),
        (3, True, False),
        (8, True, False),
        (9, False, True),
    ]
    assert rejected(funnel) == {"duplicate_row": 1, "video": 1, "no_caption": 1, "junk_caption": 2, "not_english": 1}


def test_paper_captions_are_the_published_ones_and_nothing_is_rejected_for_them(tmp_path: Path) -> None:
    title, description = "IMG_1234", "1+1 <a href='x'>you</a>\n& www.x.org +"
    rows = [row(0, 7, title=title, description=description), row(1, 8, title=""), row(2, 9, marker="1")]
    funnel, found = run(tmp_path, rows, listing((0, 7), (1, 8), (2, 9)), captions="paper")
    assert [(r["title"], r["description"], r["user"]) for r in found] == [
        ("IMG_1234", paper_caption(quote_plus(description)), "J+J"),
        ("", "", "J+J"),
    ]
    assert all(r["title_usable"] and r["description_usable"] for r in found)
    assert rejected(funnel) == {"video": 1}
    _, english = run(tmp_path / "english", english_rows(), variant="english", captions="paper")
    assert [(r["row"], r["title_usable"]) for r in english] == [(0, True), (1, True), (9, True)]


def test_other_data_sets_take_every_row(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text("a dog on the lawn\thttp://x.org/1.jpg\na cat\thttp://x.org/2.jpg\n")
    config = BuildConfig(dataset="cc3m", metadata=(str(tmp_path / "cc3m.tsv"),), output="out", processes=1)
    funnel = select(config, tmp_path / "work")
    found = pq.read_table(part_path(tmp_path / "work", 0)).to_pylist()
    assert [(r["key"], r["photo_id"], r["bucket_key"], r["description"]) for r in found] == [
        ("000000000", -1, "", "a dog on the lawn"),
        ("000000001", -1, "", "a cat"),
    ]
    assert funnel.rejected[Reason.NOT_IN_LIST] == 0


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    table = {
        "path": ["a.jpg", "b.jpg", None, "d.jpg", "e.jpg", "f.jpg"],
        "key": ["k1", "k2", "k3", "k1", "k5", "k6"],
        "caption": ["100%25 a+b <b>dog</b>", "IMG_1234", "no path", "again", "", None],
        "title": ["", "A title", "", "", "<br>", "IMG_0001"],
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    config = BuildConfig(metadata=(str(tmp_path / "t.parquet"),), dataset="local", output="out", samples_per_shard=1)
    funnel = select(config, tmp_path / "work")
    assert {reason: count for reason, count in funnel.rejected.items() if count} == {
        Reason.MALFORMED_ROW: 1,
        Reason.DUPLICATE_ROW: 1,
        Reason.NO_CAPTION: 1,
        Reason.JUNK_CAPTION: 1,
    }
    (first,), (second,) = (pq.read_table(part_path(tmp_path / "work", unit)).to_pylist() for unit in range(2))
    assert (first["key"], first["row"], first["description"]) == ("k1", 0, "100%25 a+b dog")  # not percent-decoded
    assert first["url"] == (tmp_path / "a.jpg").as_uri()
    assert (second["key"], second["row"], second["title"], second["description_usable"]) == ("k2", 1, "A title", False)


def test_a_list_and_pictures_of_ones_own_contradict() -> None:
    with pytest.raises(ConfigError, match="leave out --subset-list"):
        BuildConfig(metadata=("t",), subset_list="l", dataset="local", output="out")
