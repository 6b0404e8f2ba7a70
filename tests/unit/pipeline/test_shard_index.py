"""Indexes read: compact, shared by threads, and refused when they contradict themselves."""

from __future__ import annotations

import hashlib
import io
import random
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shard_index as s
from pipeline.errors import ShardError

SHA = "0123456789abcdef" * 4
SIZE = 3072


def index_rows(keys: list[str]) -> list[dict[str, Any]]:
    """Samples of 3 members, one block of header and one of data each."""
    draw = random.Random(0)
    rows = []
    for i, key in enumerate(keys):
        ext = draw.choice(["jpg", "png", "webp"])
        row: dict[str, Any] = {"key": key, "offset": SIZE * i, "size": SIZE, "image_ext": ext}
        for j, member in enumerate(("image", "json", "txt")):
            row |= {f"{member}_offset": SIZE * i + 1024 * j + 512, f"{member}_size": draw.randrange(513)}
        rows.append(row | {"sha256": draw.randbytes(32).hex(), "crc32": draw.randrange(2**32)})
    return rows


def parsed(rows: list[dict[str, Any]], num_bytes: int | None = None, *, without: str = "") -> s.ShardIndex:
    table = pa.Table.from_pylist(rows, schema=s.INDEX_SCHEMA)
    data = s.index_bytes(table.drop_columns([without]) if without else table)
    if num_bytes is None:
        num_bytes = SIZE * len(rows) + 1024
    return s.parse_index(
        data, url="s3://b/00000.parquet", shard="00000.tar", num_samples=len(rows), num_bytes=num_bytes
    )


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1, max_size=30, unique=True))
def test_what_was_written_is_read(keys: list[str]) -> None:
    rows = index_rows(keys)
    index = parsed(rows)
    assert len(index) == len(rows)
    for i, row in enumerate(rows):
        assert index.key(i) == row["key"]
        assert index.sha256 is None
        assert index.crc32 is not None
        assert int(index.crc32[i]) == row["crc32"]
        places = [name for name in row if name.endswith(("offset", "size"))]
        assert {name: int(getattr(index, name)[i]) for name in places} == {name: row[name] for name in places}


def test_threads_cannot_disturb_each_other() -> None:
    index = parsed(index_rows(["a", "b"]))
    for name in ("crc32", "offset", "size", "image_offset", "image_size", "txt_size", "json_offset"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(index, name)[0] = 1


def test_ten_thousand_samples_take_less_than_a_megabyte() -> None:
    keys = [f"{number:010d}" for number in range(10_000)]
    before = pa.total_allocated_bytes()
    index = parsed(index_rows(keys))
    held = pa.total_allocated_bytes() - before
    assert index.crc32 is not None
    held += sum(array.nbytes for array in (index.crc32, index.image_size, index.txt_size, index.json_size))
    assert held < 900_000


@pytest.mark.parametrize("keys", [["b", "a", "b"], ["a", "a"], ["a", "b", "b"], ["b", "b", "a"]])
def test_keys_in_any_order_occur_once(keys: list[str]) -> None:
    assert len(parsed(index_rows(sorted(set(keys), reverse=True)))) == len(set(keys))
    with pytest.raises(ShardError, match="a key occurs twice"):
        parsed(index_rows(keys))


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        (1, {"offset": 3000}, "offsets do not increase"),
        (0, {"offset": -512}, "offsets do not increase"),
        (2, {"size": 9000}, "samples end at byte 15144, the shard has 10240"),
        (1, {"size": 0}, "a sample has no bytes"),
        (1, {"image_offset": 3072}, "a member lies outside its sample"),
        (1, {"txt_size": 513}, "a member lies outside its sample"),
        (1, {"json_size": -1}, "a member lies outside its sample"),
        (1, {"image_size": 2**32}, "a member has 4 GiB or more"),
        (2, {"key": "k0"}, "a key occurs twice"),
        (2, {"key": "k1"}, "a key occurs twice"),
    ],
)
def test_an_index_that_contradicts_itself(row: int, changes: dict[str, Any], message: str) -> None:
    rows = index_rows(["k0", "k1", "k2"])
    rows[row] |= changes
    with pytest.raises(ShardError, match=rf"00000\.parquet: the index of 00000\.tar is damaged: .*{message}"):
        parsed(rows)


@pytest.mark.parametrize("digest", [SHA[1:], SHA[1:] + "g", SHA[2:] + "é", " " + SHA[1:]])
def test_digests_that_are_none(digest: str) -> None:
    rows = index_rows(["k0", "k1"])
    rows[1] |= {"sha256": digest}
    with pytest.raises(ShardError, match=r"00000\.parquet: the index of 00000\.tar .*: a sha256 is not 64 hex digits"):
        parsed(rows, without="crc32")


@pytest.mark.parametrize("without", ["", "crc32"])
def test_a_changed_bit_is_told(without: str) -> None:
    samples = [random.Random(i).randbytes(SIZE) for i in range(3)]
    rows = index_rows(["a", "b", "c"])
    for row, data in zip(rows, samples, strict=True):
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "crc32": zlib.crc32(data)}
    index = parsed(rows, without=without)
    assert [index.damage(i, memoryview(data)) for i, data in enumerate(samples)] == ["", "", ""]
    changed = samples[1][:1000] + bytes([samples[1][1000] ^ 4]) + samples[1][1001:]
    if without:
        told = (
            f"sha256 of its {SIZE} bytes is {hashlib.sha256(changed).hexdigest()}, the index says {rows[1]['sha256']}"
        )
    else:
        told = f"crc32 of its {SIZE} bytes is {zlib.crc32(changed):08x}, the index says {rows[1]['crc32']:08x}"
    assert index.damage(1, changed) == told
    assert index.damage(2, changed)


def test_several_faults_are_all_named() -> None:
    rows = index_rows(["a", "a"])
    rows[1] |= {"size": 4096, "sha256": ""}
    with pytest.raises(ShardError, match="samples end at byte 7168, the shard has 7167; a key occurs twice; a sha256"):
        parsed(rows, 7167, without="crc32")


def test_notes_of_the_maker() -> None:
    table = pa.Table.from_pylist(index_rows(["a"]), schema=s.INDEX_SCHEMA)
    plain, noted = s.index_bytes(table), s.index_bytes(table, "seen é")
    assert (s.index_notes(plain, "u"), s.index_notes(noted, "u")) == ("", "seen é")
    assert s.index_bytes(table, "seen é") == noted
    assert s.parse_index(noted, url="u", shard="t", num_samples=1, num_bytes=SIZE).key(0) == "a"
    with pytest.raises(ShardError, match="u: not an index"):
        s.index_notes(b"PAR1 no", "u")


def test_columns_of_later_versions_and_of_other_types_are_read() -> None:
    table = pa.Table.from_pylist(index_rows(["a", "b"]), schema=s.INDEX_SCHEMA)
    table = table.append_column("aesthetic", pa.array([1.0, 2.0]))
    table = table.set_column(1, "offset", table.column("offset").cast(pa.int32()))
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1)
    index = s.parse_index(sink.getvalue(), url="u", shard="t", num_samples=2, num_bytes=2 * SIZE)
    assert index.offset.tolist() == [0, SIZE]
    assert [index.key(0), index.key(1)] == ["a", "b"]
