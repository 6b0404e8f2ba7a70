"""Reading big tab-separated files in blocks, compared with splitting them in one go."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.metadata import lines
from pipeline.metadata.lines import Block, cut_local, is_packed, parse_integers, read_blocks, split_columns

NAMES = ("a", "b", "c")


def block_of(data: bytes, first_line: int = 0) -> Block:
    return Block(url="memory", data=data, first_line=first_line, stored_bytes=len(data))


FIELD = st.binary(max_size=6).map(lambda field: bytes(byte for byte in field if byte not in b"\t\n\r"))


@given(st.lists(st.lists(FIELD, min_size=1, max_size=5), min_size=1, max_size=20), st.integers(0, 10**12))
@example([[b"\xef\xbb\xbf", b"", b""]], 0)
@settings(deadline=None)
def test_split_columns_equals_splitting_each_line(rows: list[list[bytes]], first_line: int) -> None:
    block = block_of(b"".join(b"\t".join(row) + b"\n" for row in rows), first_line)
    columns = split_columns(block, NAMES, wanted=("c", "a"))
    good = [(number, row) for number, row in enumerate(rows) if len(row) == 3]
    assert columns.widths.tolist() == [len(row) for row in rows]
    assert columns.lines.tolist() == [first_line + number for number, _ in good]
    assert columns.batch.schema.names == ["c", "a"]
    assert columns.batch.column("a").to_pylist() == [row[0] for _, row in good]
    assert columns.batch.column("c").to_pylist() == [row[2] for _, row in good]


@given(st.lists(st.one_of(st.binary(max_size=4), st.integers(-5, 10**20).map(lambda n: str(n).encode()))))
@settings(deadline=None)
def test_parse_integers_takes_plain_decimals_only(fields: list[bytes]) -> None:
    values, is_number = parse_integers(pa.array(fields, pa.binary()))
    expected = [1 <= len(field) <= 18 and all(byte in b"0123456789" for byte in field) for field in fields]
    assert is_number.tolist() == expected
    assert values.tolist() == [int(field) if good else 0 for field, good in zip(fields, expected, strict=True)]
    assert values.dtype == np.int64


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_blocks_hold_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, packed: bool, ending: bytes
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    text = b"\n".join(b"%d\t%s\tx" % (number, b"y" * (number * 7 % 50)) for number in range(40)) + ending
    path = tmp_path / "rows"
    path.write_bytes(bz2.compress(text[:300]) + bz2.compress(text[300:]) if packed else text)
    blocks = list(read_blocks(str(path), what="rows"))
    assert b"".join(block.data for block in blocks) == text.removesuffix(b"\n") + b"\n"
    counts = [block.data.count(b"\n") for block in blocks]
    assert [block.first_line for block in blocks] == np.cumsum([0, *counts[:-1]]).tolist()
    assert blocks[-1].stored_bytes == path.stat().st_size
    if block_bytes == 7 and not packed:
        assert len(blocks) > 5


def test_a_line_of_some_megabytes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100_000)
    path = tmp_path / "rows"
    path.write_bytes(b"1\t2\t3\n1\t" + b"x" * 3_000_000 + b"\t3\n4\t5\t6\n")
    columns = [split_columns(block, NAMES, wanted=NAMES) for block in read_blocks(str(path), what="rows")]
    assert [length for one in columns for length in map(len, one.batch.column("b").to_pylist())] == [1, 3_000_000, 1]


def test_files_saved_on_windows(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"\xef\xbb\xbf1\t2\t3\r\n4\tfi\rve\t6\r\n")
    (block,) = read_blocks(str(path), what="rows")
    assert block.data == b"1\t2\t3\n4\tfi ve\t6\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows", b"", "empty"),
        ("rows.bz2", bz2.compress(b""), "nothing in it"),
        ("rows.bz2", b"1\t2\t3\n", "not bzip2, though its name says so"),
        ("rows.bz2", bz2.compress(b"1\t2\t3\n" * 10_000)[:-20], "damaged or cut short"),
        ("rows.bz2", bz2.compress(b"1\t2\t3\n")[:12] + b"\x55" * 50, "damaged or cut short"),
        ("rows", gzip.compress(b"1\t2\t3\n", mtime=0), "gzip file"),
        ("rows", b"PK\x03\x04" + bytes(100), "zip file"),
        ("rows", b"SQLite format 3\0" + bytes(100), "SQLite file"),
        ("rows", bytes(range(256)) * 10, "binary data"),
    ],
)
def test_what_is_not_the_file_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_blocks(str(path), what="the list"))
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected the list"):
        list(read_blocks(str(tmp_path / "absent"), what="the list"))
    with pytest.raises(InputError, match="a folder, not a file"):
        list(read_blocks(str(tmp_path), what="the list"))


def test_a_file_without_line_feeds_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    path = tmp_path / "rows"
    path.write_bytes(b"x" * 100_000)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        list(read_blocks(str(path), what="rows"))


def test_any_fsspec_url(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"1\t2\t3\n")
    (block,) = read_blocks(f"file://{path}", what="rows")
    assert block.data == b"1\t2\t3\n"


@given(
    st.lists(st.text(alphabet="ab\t", max_size=30), min_size=1), st.booleans(), st.integers(1, 60), st.integers(1, 9)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_local_blocks_are_the_whole_lines_of_the_file(
    tmp_path: Path, texts: list[str], is_ended: bool, block_bytes: int, piece_bytes: int
) -> None:
    data = "\n".join(texts).encode() + b"\n" * is_ended
    path = tmp_path / "rows.tsv"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        patch.setattr(lines, "_PIECE_BYTES", piece_bytes)
        spans = list(cut_local(str(path), what="rows"))
    assert b"".join(data[span.start : span.stop] for span in spans) == data
    for span in spans:
        block = data[span.start : span.stop]
        assert span.num_lines == len(block.removesuffix(b"\n").split(b"\n")) >= 1
        assert block.endswith(b"\n") or span is spans[-1]


def test_a_local_line_without_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.tsv").write_bytes(b"a" * 5000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    with pytest.raises(InputError, match=r"a line has more than 1000 bytes; expected rows"):
        list(cut_local(str(tmp_path / "rows.tsv"), what="rows"))


def test_packed_is_told_by_the_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bz2.compress(b"1\n"))
    (tmp_path / "b.bz2").write_bytes(b"1\n")
    assert is_packed(str(tmp_path / "a"))
    assert not is_packed(str(tmp_path / "b.bz2"))
