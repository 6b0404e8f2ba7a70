from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slip.data.keyed import Purpose, permutation, raw_bits, uniforms

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
    numbers = uniforms(20_000, seed=1, purpose=Purpose.VIEW, where=(1, 2, 3))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.std() - 12**-0.5) < 0.01
    other = uniforms(20_000, seed=1, purpose=Purpose.CAPTION, where=(1, 2, 3))
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.03


@given(count=st.integers(0, 300), seed=st.integers(0, 5))
def test_permutation_is_one(count: int, seed: int) -> None:
    order = permutation(count, seed=seed, purpose=Purpose.WINDOW_ORDER, where=(0, 0, 0))
    assert sorted(order.tolist()) == list(range(count))
