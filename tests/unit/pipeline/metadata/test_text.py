"""Lines of v1 and v2, compared with splitting them in plain Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.metadata import lines
from pipeline.metadata.rows import TEXT_COLUMNS, Chunk
from pipeline.metadata.text import V1_COLUMNS, V2_COLUMNS, read_text
from tests.yfcc_files import ROW, as_v1, config_of, read_all, row

LINE = st.one_of(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**12)).map(lambda numbers: row(*numbers)),
    st.tuples(st.sampled_from(["x", "", "-3", "0x1f", "1.5", "9" * 19]), st.integers(0, 9)).map(lambda two: row(*two)),
    st.sampled_from(["", "one", "a\tb", ROW + "\tmore", row(1, "?"), row(1, 2, url=""), row(1, 2, url="ftp://x")]),
    st.sampled_from([row(7, 8, title='"quoted'), row(7, 8, title="NA", description="null"), row(7, 8, marker="1")]),
    st.sampled_from(
        [row(7, 8, marker="11"), row(7, 8, marker=""), row(7, 8, url="https://x"), row(7, 8, url="http:/")]
    ),
)


def plain(data: bytes, names: Sequence[str], first_row: int = 0) -> list[dict[str, object]]:
    """The well-formed rows of a text, the slow way."""
    found = []
    for position, line in enumerate(data.split(b"\n")[:-1], first_row):
        fields = dict(zip(names, parts, strict=True)) if len(parts := line.split(b"\t")) == len(names) else {}
        numbers = [fields.get("photo_id", b""), fields.get("line", b"0")]
        is_number = all(1 <= len(number) < 19 and set(number) <= set(b"0123456789") for number in numbers)
        if not is_number or not fields["url"].startswith((b"http://", b"https://")):
            continue
        found.append(
            {
                "row": position,
                "line": int(fields.get("line", b"-1")),
                "photo_id": int(fields["photo_id"]),
                "bucket_key": fields.get("bucket_key", b""),
                "is_video": fields["marker"] == b"1",
                "key": "",
                **{name: fields[name] for name in ("url", *TEXT_COLUMNS)},
            }
        )
    return found


@given(
    st.lists(LINE, max_size=12),
    st.lists(LINE, max_size=12),
    st.sampled_from([100, 2000, 1 << 20]),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_rows_equal_a_plain_reading(
    tmp_path: Path, first: list[str], second: list[str], block_bytes: int, is_v1: bool
) -> None:
    contents = [[ROW] * 10 + first + [ROW] * 14, [ROW] * 13 + second]
    if is_v1:
        contents = [[as_v1(line) if line.count("\t") == 24 else line for line in content] for content in contents]
    paths = []
    for number, content in enumerate(contents):
        paths.append(tmp_path / f"{number}.tsv")
        paths[-1].write_text("\n".join(content) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        table, num_malformed, _ = read_all(config_of(*paths))
    expected = plain(b"".join(path.read_bytes() for path in paths), V1_COLUMNS if is_v1 else V2_COLUMNS)
    assert table.to_pylist() == expected
    assert num_malformed == len(contents[0]) + len(contents[1]) - len(expected)


def chunk_of(data: bytes, form: str = "v2") -> Chunk:
    return Chunk(
        url="memory",
        form="v2" if form == "v2" else "v1",
        first_row=1000,
        num_rows=data.count(b"\n"),
        done_bytes=len(data),
        data=data,
        start=1,
    )


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The text with some of what happens to files: wrong bytes, lost and doubled parts, very long fields."""
    text = bytearray(data)
    for _ in range(rng.randrange(1, 12)):
        at = rng.randrange(len(text))
        kind = rng.randrange(6)
        if kind == 0:
            text[at] = rng.randrange(256)
        elif kind == 1:
            text[at:at] = rng.choice([b"\t", b"\n", b"\0", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"\\"])
        elif kind == 2:
            del text[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            text[at:at] = text[at : at + rng.randrange(400)]
        elif kind == 4:
            text[at:at] = rng.randbytes(rng.randrange(60))
        else:
            text[at:at] = bytes([rng.randrange(256)]) * rng.choice([20, 300_000])
    return bytes(text).rstrip(b"\n") + b"\n"


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_mutated_lines_never_crash_and_each_is_counted(form: str) -> None:
    rng = random.Random(7)
    names = V2_COLUMNS if form == "v2" else V1_COLUMNS
    whole = [row(number, number * 37) for number in range(40)]
    data = "".join((line if form == "v2" else as_v1(line)) + "\n" for line in whole).encode()
    num_good = 0
    for _ in range(400):
        text = mutated(data, rng)
        rows = read_text(chunk_of(text, form), None)
        assert rows.batch.num_rows + rows.num_malformed == text.count(b"\n")
        expected = plain(text.replace(b"\r\n", b"\n").replace(b"\r", b" "), names, 1000)
        assert rows.batch.to_pylist() == expected
        rows.batch.validate(full=True)
        num_good += rows.batch.num_rows
    assert num_good > 400 * 20


@given(st.binary(max_size=300))
@example(b"\t" * 24)
@example((b"\t" * 24 + b"\n") * 3)
@example(b"1\t1" + b"\t" * 23)
def test_any_bytes_are_malformed_rows_at_worst(data: bytes) -> None:
    text = data + b"\n"
    rows = read_text(chunk_of(text), None)
    assert rows.batch.num_rows + rows.num_malformed == text.count(b"\n")


def test_files_saved_on_windows(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{row(1, 2)}\r\n{row(3, 4, title='a' + chr(13) + 'b')}".encode())
    table, num_malformed, _ = read_all(config_of(path))
    assert num_malformed == 0
    assert table["line"].to_pylist() == [1, 3]
    assert table["title"].to_pylist() == [b"The+title", b"a b"]
    assert table["is_video"].to_pylist() == [False, False]


def test_bytes_that_are_not_utf8_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes("".join(row(n, n) + "\n" for n in range(5)).encode() + b"\xff\xfe\n" + b"\xff\t" * 24 + b"\xff\n")
    table, num_malformed, _ = read_all(config_of(path))
    assert table["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert num_malformed == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\tc\n" * 10, r"wrong column count: line 1 has 3 columns instead of 25 .v2. or 23 .v1."),
        ((ROW + "\n") * 2 + (ROW + "\tx\n") * 3, "line 3 has 26 columns instead of 25"),
        ("just text, no tabs", "line 1 has 1 columns"),
    ],
)
def test_another_kind_of_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_all(config_of(path))
    assert str(path) in str(caught.value)
