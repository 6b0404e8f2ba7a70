"""The set of numbers, compared with Python's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.selection import id_set
from pipeline.selection.id_set import IdSet

IDS = st.one_of(st.integers(0, 30), st.integers(-(2**63) + 1, 2**63 - 1), st.integers(0, 40).map(lambda n: n << 48))


@given(st.lists(st.lists(IDS, max_size=40), max_size=8))
def test_add_equals_a_python_set(batches: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_set, "_FIRST_BITS", 2)  # so that it grows, and is full of collisions
        ids, reference = IdSet(), set[int]()
        for batch in batches:
            expected = []
            for number in batch:
                expected.append(number not in reference)
                reference.add(number)
            assert ids.add(np.array(batch, np.int64)).tolist() == expected
            assert len(ids) == len(reference)


def test_many() -> None:
    ids = IdSet()
    numbers = np.arange(0, 3_000_000, 7, dtype=np.int64) * 1_000_003
    assert ids.add(numbers).all()
    assert not ids.add(numbers[::-1].copy()).any()
    assert len(ids) == len(numbers)
