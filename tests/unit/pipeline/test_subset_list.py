"""OpenAI's list, compared with a dictionary."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.subset_list import read_subset_list


def write(path: Path, entries: list[tuple[int, int]]) -> str:
    path.write_text("".join(f"{line}\t{photo}\tkey\n" for line, photo in entries))
    return str(path)


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 20), min_size=1), st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_find_equals_a_dictionary(tmp_path: Path, photo_of: dict[int, int], random: object) -> None:
    entries = list(photo_of.items()) + list(photo_of.items())[:2]  # some twice, unsorted
    listed = read_subset_list(write(tmp_path / "list.tsv", entries))
    lines = np.arange(60)
    found_at, is_found = listed.find(lines)
    for line in range(60):
        assert is_found[line] == (line in photo_of)
        if line in photo_of:
            assert listed.photo_ids[found_at[line]] == photo_of[line]
    photos = listed.entries_of_photo(np.arange(len(listed.lines)))
    same = photos[:, None] == photos[None, :]
    assert (same == (listed.photo_ids[:, None] == listed.photo_ids[None, :])).all()


def test_bzip2_and_text_are_the_same(tmp_path: Path) -> None:
    text = write(tmp_path / "list.tsv", [(5, 50), (1, 10)])
    (tmp_path / "list.tsv.bz2").write_bytes(bz2.compress(Path(text).read_bytes()))
    for url in (text, str(tmp_path / "list.tsv.bz2")):
        listed = read_subset_list(url)
        assert listed.lines.tolist() == [1, 5]
        assert listed.photo_ids.tolist() == [10, 50]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n", "line 1 has 1 columns"),
        ("1\t2\tk\n3\t4\n", "line 2 has 2 columns"),
        ("1\t2\tk\n3\t4\tk\tmore\n", "line 2 has 4 columns"),
        ("line\tphoto\tkey\n1\t2\tk\n", "line 1: 'line' is no number .column line."),
        ("1\t2\tk\n3\tfour\tk\n", "line 2: 'four' is no number .column photo_id."),
        ("1\t2\tk\n3\t-4\tk\n", "line 2: '-4' is no number"),
        ("1\t2\tk\n1\t3\tk\n", "line number 1 is listed with photo 2 and with photo 3"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_subset_list(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected OpenAI's list"):
        read_subset_list(str(tmp_path / "absent"))
