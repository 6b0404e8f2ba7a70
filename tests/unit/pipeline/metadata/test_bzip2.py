"""Unpacking bzip2 block by block, compared with Python's and Arrow's own readers."""

from __future__ import annotations

import bz2
import io
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metadata import bzip2
from pipeline.metadata.bzip2 import Bzip2Error, bits, find_marks, unpack


def unpacked(packed: bytes, threads: int = 2, piece_bytes: int = 1 << 20) -> bytes:
    file = io.BytesIO(packed)
    pieces = list(unpack(lambda size: file.read(min(size, piece_bytes)), threads=threads))
    positions = [done for _, done in pieces]
    assert positions == sorted(positions)
    assert not pieces or positions[-1] == len(packed)
    return b"".join(data for data, _ in pieces)


def text(num_bytes: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b"".join(b"%d\tsome+words+%d\n" % (rng.randrange(10**9), rng.randrange(99)) for _ in range(num_bytes // 23))


@given(
    st.lists(st.tuples(st.binary(max_size=100), st.integers(1, 50), st.integers(1, 9)), max_size=4),
    st.integers(1, 3),
    st.sampled_from([7, 100, 1 << 20]),
)
@settings(deadline=None, max_examples=50)
def test_any_streams_come_back(parts: list[tuple[bytes, int, int]], threads: int, piece_bytes: int) -> None:
    packed = b"".join(bz2.compress(data * times, level) for data, times, level in parts)
    assert unpacked(packed, threads, piece_bytes) == b"".join(data * times for data, times, _ in parts)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", [1, 9])
def test_one_stream_and_many_equal_arrows_reading(threads: int, level: int) -> None:
    data = text(1_500_000)
    one = bz2.compress(data, level)
    many = b"".join(bz2.compress(data[start : start + 700_000], level) for start in range(0, len(data), 700_000))
    for packed in (one, many):
        assert unpacked(packed, threads) == pa.CompressedInputStream(pa.BufferReader(packed), "bz2").read() == data


def test_random_bytes_which_bzip2_enlarges() -> None:
    data = random.Random(1).randbytes(1_200_000)
    assert unpacked(bz2.compress(data)) == data


def test_marks_inside_a_block_are_not_taken_for_blocks() -> None:
    # Bytes that cannot be packed hold the marks nearly as they are; bits find them at any place.
    packed = bytearray(b"\x00" * 40)
    for shift in range(8):
        value = 0x314159265359 << (64 - 48 - shift)
        packed[20:28] = value.to_bytes(8, "big")
        assert find_marks(packed, 0, len(packed)) == [8 * 20 + shift]
        assert bits(packed, 8 * 20 + shift, 8 * 20 + shift + 48) == 0x314159265359


def test_what_is_taken_for_a_mark_by_mistake_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = bz2.compress(text(500_000), 1)

    def with_false_marks(window: bytes | bytearray, start: int, stop: int) -> list[int]:
        return sorted({*find_marks(window, start, stop), *range(8 * start, 8 * stop, 5003)})

    monkeypatch.setattr(bzip2, "find_marks", with_false_marks)
    with pytest.raises(Bzip2Error):
        unpacked(packed)


@pytest.mark.parametrize("level", [1, 9])
def test_a_flipped_bit_anywhere_is_an_error(level: int) -> None:
    data = text(400_000)
    packed = bz2.compress(data[:250_000], level) + bz2.compress(data[250_000:], level)
    rng = random.Random(2)
    places = [0, 3, 5, 12, len(packed) - 1, len(packed) - 8, *(rng.randrange(len(packed)) for _ in range(30))]
    for place in places:
        damaged = bytearray(packed)
        damaged[place] ^= 1 << rng.randrange(8)
        try:
            found = unpacked(bytes(damaged))
        except Bzip2Error:
            continue
        assert found == data
        assert place in {3, len(packed) - 1}  # the size announced for blocks, and bits that fill the last byte


def test_a_cut_anywhere_is_an_error_except_between_streams() -> None:
    data = text(300_000)
    first = bz2.compress(data, 1)
    packed = first + bz2.compress(data, 1)
    rng = random.Random(3)
    for length in [1, 4, 10, len(first) + 2, len(packed) - 1, *(rng.randrange(1, len(packed)) for _ in range(20))]:
        if length in {0, len(first)}:
            continue
        with pytest.raises(Bzip2Error):
            unpacked(packed[:length])
    assert unpacked(first) == data


def test_a_missing_block_is_an_error() -> None:
    packed = bz2.compress(text(900_000), 1)
    begin, end = find_marks(packed, 0, len(packed))[3:5]
    value = int.from_bytes(packed, "big")
    length = 8 * len(packed)
    without = (value >> (length - begin)) << (length - end) | (value & ((1 << (length - end)) - 1))
    missing = end - begin
    shortened = (without << (-(length - missing) % 8)).to_bytes(-(-(length - missing) // 8), "big")
    with pytest.raises(Bzip2Error):
        unpacked(shortened)


def test_what_stands_behind_the_last_stream_is_an_error() -> None:
    with pytest.raises(Bzip2Error, match="no bzip2 stream"):
        unpacked(bz2.compress(b"text") + b"rubbish")
