"""Rows of YFCC100M's metadata, compared with splitting lines in plain Python."""

from __future__ import annotations

import bz2
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import lines
from pipeline.errors import InputError
from pipeline.metadata import V2_COLUMNS, Rows, open_rows, total_bytes

ROW = (
    "0\t6985418911\t4e2f7a26a1dfbf165a7e30bdabf7e72a\t39089491@N00\tnino63004\t2012-02-16 09:56:37.0\t1331840483\t"
    "Canon+PowerShot\tThe+title\tThe+description\tcruise\t\t-81.8\t24.5\t12\thttp://www.flickr.com/photos/x/1/\t"
    "http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg\tAttribution License\thttp://creativecommons.org/by\t"
    "7205\t8\tdf7747990d\t692d7e0a7f\tjpg\t0"
)


def row(line: int | str, photo_id: int | str, **fields: str) -> str:
    values = dict(zip(V2_COLUMNS, ROW.split("\t"), strict=True)) | {"line": str(line), "photo_id": str(photo_id)}
    return "\t".join((values | fields).values())


def read(*paths: Path) -> tuple[pa.Table, int, list[Rows]]:
    batches = list(open_rows([str(path) for path in paths], source="flickr"))
    table = pa.Table.from_batches([rows.batch for rows in batches])
    return table, sum(rows.num_malformed for rows in batches), batches


def test_every_field_arrives_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(ROW + "\n")
    table, num_malformed, (rows,) = read(path)
    assert num_malformed == 0
    assert rows.bytes_read == path.stat().st_size == total_bytes([str(path)], source="flickr")
    assert table.to_pylist() == [
        {
            "row": 0,
            "line": 0,
            "photo_id": 6985418911,
            "is_video": False,
            "url": b"http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg",
            "title": b"The+title",
            "description": b"The+description",
            "user": b"nino63004",
            "date_taken": b"2012-02-16 09:56:37.0",
            "page_url": b"http://www.flickr.com/photos/x/1/",
            "license": b"Attribution License",
            "license_url": b"http://creativecommons.org/by",
        }
    ]


LINE = st.one_of(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**12)).map(lambda numbers: row(*numbers)),
    st.tuples(st.sampled_from(["x", "", "-3", "0x1f", "1.5", "9" * 19]), st.integers(0, 9)).map(lambda two: row(*two)),
    st.sampled_from(["", "one", "a\tb", ROW + "\tmore", row(1, "?"), row(1, 2, url=""), row(1, 2, url="ftp://x")]),
    st.sampled_from([row(7, 8, title='"quoted'), row(7, 8, title="NA", description="null"), row(7, 8, marker="1")]),
)


@given(st.lists(LINE, max_size=12), st.lists(LINE, max_size=12), st.sampled_from([100, 2000, 1 << 20]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_equal_a_plain_reading(tmp_path: Path, first: list[str], second: list[str], block_bytes: int) -> None:
    files = [[ROW] * 10 + first + [ROW] * 14, [ROW] * 13 + second]
    paths = []
    for number, content in enumerate(files):
        paths.append(tmp_path / f"{number}.tsv")
        paths[-1].write_text("\n".join(content) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        table, num_malformed, _ = read(*paths)

    expected = []
    for position, line in enumerate(files[0] + files[1]):
        fields = line.split("\t")
        if len(fields) != 25 or not all(field.isdecimal() and len(field) < 19 for field in fields[:2]):
            continue
        if fields[16].startswith("http"):
            title, description = fields[8].encode(), fields[9].encode()
            expected.append((position, int(fields[0]), int(fields[1]), title, description, fields[24] == "1"))
    names = ("row", "line", "photo_id", "title", "description", "is_video")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == expected
    assert num_malformed == len(files[0]) + len(files[1]) - len(expected)


def test_bzip2_and_text_are_the_same(tmp_path: Path) -> None:
    text = "".join(row(line, line + 100) + "\n" for line in range(3000))
    (tmp_path / "rows.tsv").write_text(text)
    (tmp_path / "rows.bin").write_bytes(bz2.compress(text.encode()))  # known by its content, not its name
    assert read(tmp_path / "rows.tsv")[0].equals(read(tmp_path / "rows.bin")[0])


def test_bytes_that_are_not_utf8_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes("".join(row(n, n) + "\n" for n in range(5)).encode() + b"\xff\xfe\n" + b"\xff\t" * 24 + b"\xff\n")
    table, num_malformed, _ = read(path)
    assert table["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert num_malformed == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\tc\n" * 10, "wrong column count: line 1 has 3 columns instead of 25 .wrong in 10 of the first 10 lines"),
        ((ROW + "\n") * 2 + (ROW + "\tx\n") * 3, "line 3 has 26 columns instead of 25"),
        ((ROW.partition("\t")[2].replace("\t\t", "\t", 1) + "\n") * 2, "line 1 has 23 columns.*not read yet"),
        ("just text, no tabs", "line 1 has 1 columns"),
    ],
)
def test_another_kind_of_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_second_file_is_checked_too(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tsv", tmp_path / "bad.tsv"
    good.write_text(ROW + "\n")
    bad.write_text("a\tb\n")
    with pytest.raises(InputError, match=r"bad\.tsv: wrong column count"):
        read(good, bad)


def test_missing_files_are_found_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(ROW + "\n")
    with pytest.raises(InputError, match="no such file"):
        total_bytes([str(path), str(tmp_path / "absent")], source="flickr")
