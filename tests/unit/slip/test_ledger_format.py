"""The bytes of a ledger file: what is written comes back, small; what is damaged or foreign is refused by name."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from slip.ledger_format import BLOCK_IDS, Header, Rows, decode, encode, pack_rows

URL = "s3://bucket/run/ledger/00000007-00000010/rank-00001-of-00004.ledger"
Row = tuple[int, int, int]  # planned, used, epoch

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**62))


def header(first: int, stop: int) -> Header:
    return Header(rank=1, world_size=4, digest="a1" * 32, seed=-5, global_batch=4096, first=first, stop=stop)


def packed(step: int, rows: list[Row]) -> Rows:
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return pack_rows(step, table[:, 0], table[:, 1], table[:, 2])


def unpacked(data: bytes) -> tuple[dict[int, Counter[tuple[int, int]]], list[tuple[int, ...]]]:
    """Per step how often (epoch, planned id) is in it; the replaced samples."""
    steps: dict[int, Counter[tuple[int, int]]] = {}
    replaced: list[tuple[int, ...]] = []
    for block in decode(data, URL).blocks():
        at = 0
        for step, epoch, count in zip(block.steps.tolist(), block.epochs.tolist(), block.counts.tolist(), strict=True):
            ids = block.ids[at : at + count].tolist()
            assert ids == sorted(ids)
            steps.setdefault(step, Counter()).update((epoch, i) for i in ids)
            at += count
        assert at == len(block.ids)
        replaced += [tuple(row) for row in block.replaced.tolist()]
    return steps, replaced


@settings(deadline=None)
@given(
    first=st.integers(0, 10**9),
    content=st.lists(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 3)), max_size=20), min_size=1, max_size=6),
)
def test_what_is_written_comes_back(first: int, content: list[list[Row]]) -> None:
    rows = [packed(first + i, step_rows) for i, step_rows in enumerate(content)]
    data = encode(header(first, first + len(content)), rows)
    assert decode(data, URL).header == header(first, first + len(content))
    steps, replaced = unpacked(data)
    expected = {first + i: Counter((epoch, p) for p, _, epoch in r) for i, r in enumerate(content) if r}
    assert steps == expected
    assert replaced == [(first + i, epoch, p, u) for i, r in enumerate(content) for p, u, epoch in r if p != u]


def test_rows_are_packed_the_same_in_any_order() -> None:
    rows = [(7, 7, 0), (3, 3, 1), (900, 900, 0), (7, 7, 1)]
    assert encode(header(2, 3), [packed(2, rows)]) == encode(header(2, 3), [packed(2, rows[::-1])])


def test_more_ids_than_a_block_holds_come_back() -> None:
    generator = np.random.default_rng(1)
    content = [generator.integers(0, 10**6, BLOCK_IDS // 3) for _ in range(7)]
    zeros = np.zeros(BLOCK_IDS // 3, dtype=np.int64)
    data = encode(header(4, 11), [pack_rows(4 + i, ids, ids, zeros) for i, ids in enumerate(content)])
    blocks = list(decode(data, URL).blocks())
    assert [block.steps.tolist() for block in blocks] == [[4, 5, 6, 7], [8, 9, 10]]
    np.testing.assert_array_equal(
        np.concatenate([block.ids for block in blocks]), np.concatenate([np.sort(ids) for ids in content])
    )


def test_random_batches_of_15_million_take_less_than_2_bytes_per_id() -> None:
    generator = np.random.default_rng(0)
    rows = []
    for step in range(40):
        ids = generator.choice(15_000_000, 4096, replace=False)
        rows.append(pack_rows(step, ids, ids, np.full(4096, step // 20)))
    assert len(encode(header(0, 40), rows)) / (40 * 4096) < 1.75


def test_rows_wait_packed_until_they_are_written() -> None:
    ids = np.random.default_rng(0).choice(15_000_000, 4096, replace=False)
    zeros = np.zeros(4096, dtype=np.int64)
    pack_rows(0, ids, ids, zeros)
    tracemalloc.start()
    rows = [pack_rows(step, ids, ids, zeros) for step in range(50)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 50
    assert held / 50 < 2.5 * 4096


@pytest.mark.parametrize("where", ["magic", "header", "body", "end"])
def test_a_flipped_bit_is_named(where: str) -> None:
    data = bytearray(encode(header(7, 8), [packed(7, [(i * 37, i * 37, 0) for i in range(100)])]))
    data[{"magic": 2, "header": 40, "body": len(data) // 2, "end": len(data) - 1}[where]] ^= 4
    message = "not a ledger file" if where == "magic" else "damaged"
    with pytest.raises(InputError, match=f"^{URL}: {message}"):
        decode(bytes(data), URL)


@pytest.mark.parametrize("kept", [0, 5, 9, 10, 40, 100, -1])
def test_a_file_cut_short_is_named(kept: int) -> None:
    data = encode(header(7, 8), [packed(7, [(5, 5, 0)])])
    with pytest.raises(InputError, match=f"^{URL}: "):
        decode(data[:kept], URL)


def test_a_newer_format_asks_for_an_update() -> None:
    data = encode(header(7, 8), [packed(7, [(5, 5, 0)])])
    newer = data[:8] + struct.pack("<H", 2) + data[10:-32]
    with pytest.raises(InputError, match="ledger version 2, this program knows 1; update"):
        decode(newer + hashlib.sha256(newer).digest(), URL)


def test_rows_that_do_not_fit_together_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="shapes"):
        pack_rows(0, np.arange(3), np.arange(2), np.arange(3))
    with pytest.raises(ValueError, match="negative"):
        pack_rows(0, np.array([-1]), np.array([1]), np.array([0]))
