from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slip.data.keyed import Purpose, order_in_windows, permutation, raw_bits, stream_bits, uniforms

WORD = 1 << 64


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x64-10 as in the paper, in Python's integers."""
    counter, key = list(counter), list(key)
    for _ in range(10):
        low0, high0 = (product := 0xD2E7470EE14C6C93 * counter[0]) % WORD, product // WORD
        low1, high1 = (product := 0xCA5A826395121157 * counter[2]) % WORD, product // WORD
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) % WORD, (key[1] + 0xBB67AE8584CAA73B) % WORD]
    return counter


def test_the_reference_is_philox() -> None:
    # Known answer from Random123's kat_vectors: philox4x64 10, all zero.
    assert philox_block([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


@given(
    seed=st.integers(0, WORD - 1),
    purpose=st.sampled_from(Purpose),
    where=st.tuples(*[st.integers(0, WORD - 1)] * 3),
    count=st.integers(1, 11),
)
def test_bits_are_philox_of_the_key(seed: int, purpose: Purpose, where: tuple[int, int, int], count: int) -> None:
    expected: list[int] = []
    for block in range(3):  # numpy counts up before the first block
        expected += philox_block([block + 1, *where], [seed, int(purpose)])
    found = raw_bits(count, seed=seed, purpose=purpose, where=where)
    assert found.tolist() == expected[:count]
    numbers = uniforms(count, seed=seed, purpose=purpose, where=where)
    assert numbers.tolist() == [(bits >> 11) / 2**53 for bits in expected[:count]]


def test_uniforms_are_uniform_and_purposes_differ() -> None:
    numbers = uniforms(20_000, seed=1, purpose=Purpose.SAMPLE, where=(1, 2, 3))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.std() - 12**-0.5) < 0.01
    other = uniforms(20_000, seed=1, purpose=Purpose.FIRST_SAMPLE, where=(1, 2, 3))
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.03


@given(count=st.integers(0, 300), seed=st.integers(0, 5))
def test_permutation_is_one(count: int, seed: int) -> None:
    order = permutation(count, seed=seed, purpose=Purpose.WINDOW_ORDER, where=(0, 0, 0))
    assert sorted(order.tolist()) == list(range(count))


def splitmix64(seed: int) -> Iterator[int]:
    """The generator as its paper has it."""
    mask = (1 << 64) - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def test_stream_bits_are_splitmix64s() -> None:
    # As listed at rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert stream_bits(1234567, 0, 5).tolist() == known
    for seed in (0, 7, 2**64 - 1, 2**64 + 7):
        assert stream_bits(seed, 3, 20).tolist() == list(islice(splitmix64(seed % 2**64), 3, 23))


@pytest.mark.parametrize("window", [1, 2, 5, 64, 100])
def test_order_in_windows_sorts_inside_each_window(window: int) -> None:
    bits = stream_bits(9, 0, 7 * window)
    # The lowest bits give way to the place, which decides between equal numbers.
    high = bits >> np.uint64(max(window - 1, 1).bit_length())
    expected = [
        w * window + i for w in range(7) for i in np.argsort(high[w * window : (w + 1) * window], kind="stable")
    ]
    assert order_in_windows(bits, window).tolist() == expected
