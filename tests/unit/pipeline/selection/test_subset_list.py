"""OpenAI's list, compared with a dictionary."""

from __future__ import annotations

import bz2
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.selection.subset_list import COLUMNS, Join, close_files, hash_keys, read_photo_ids, read_subset_list


def write(path: Path, entries: list[tuple[int, int]]) -> str:
    path.write_text("".join(f"{line}\t{photo}\tkey\n" for line, photo in entries))
    return str(path)


def cheap(rows: list[tuple[int, int, str]]) -> pa.RecordBatch:
    """Rows of metadata: line, photo id, key."""
    line, photo_id, key = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.RecordBatch.from_arrays(
        [pa.array(line, pa.int64()), pa.array(photo_id, pa.int64()), pa.array([k.encode() for k in key], pa.binary())],
        names=["line", "photo_id", "bucket_key"],
    )


KEYS = st.sampled_from(["", "a", "b", "4e2f7a26a1dfbf165a7e30bdabf7e72a", "4e2f7a26a1dfbf165a7e30bdabf7e72b"])
LISTED = st.tuples(st.integers(0, 30), st.integers(1, 20), KEYS)
ROWS = st.tuples(st.integers(-1, 30), st.integers(-1, 20), KEYS)


@given(
    listed=st.lists(LISTED, min_size=1, max_size=15, unique_by=lambda row: row[0]),
    rows=st.lists(ROWS, max_size=30),
    join=st.sampled_from(["line", "photo_id", "key"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_find_equals_a_dictionary(
    tmp_path: Path, listed: list[tuple[int, int, str]], rows: list[tuple[int, int, str]], join: Join
) -> None:
    listed = [*listed, (99, 99, "a99"), *listed[:2]]  # one with a key, two twice
    (tmp_path / "list.tsv").write_text("".join(f"{line}\t{photo}\t{key}\n" for line, photo, key in listed))
    at = COLUMNS.index(join)
    reference: dict[int | str, tuple[int, int, str]] = {}
    for row in listed:
        if row[at] != "":
            reference.setdefault(row[at], row)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))  # as for every run
    subset = read_subset_list(str(tmp_path / "list.tsv"), folder, join=join)
    assert subset.num_rows == len(reference)
    entries, contradicts = subset.find(cheap(rows))
    keys = subset.keys(np.arange(subset.num_rows))
    for row, entry, is_other in zip(rows, entries.tolist(), contradicts.tolist(), strict=True):
        expected = reference.get(row[at])
        assert (entry >= 0) == (expected is not None)
        if expected is None:
            assert not is_other
            continue
        found = (subset.column("line")[entry], subset.column("photo_id")[entry], keys[entry])
        assert found == expected
        both = [(ours, theirs) for ours, theirs in zip(row, expected, strict=True) if -1 not in (ours, theirs)]
        assert is_other == any(ours != theirs and "" not in (ours, theirs) for ours, theirs in both)
    close_files()


def test_bzip2_and_text_are_the_same(tmp_path: Path) -> None:
    text = write(tmp_path / "list.tsv", [(5, 50), (1, 10)])
    (tmp_path / "list.tsv.bz2").write_bytes(bz2.compress(Path(text).read_bytes()))
    for number, url in enumerate((text, str(tmp_path / "list.tsv.bz2"))):
        listed = read_subset_list(url, tmp_path / str(number), join="line")
        assert listed.column("line").tolist() == [1, 5]
        assert listed.photo_ids.tolist() == [10, 50]
        assert read_photo_ids(url).tolist() == [50, 10]
        assert listed.describe(1) == "line 5, photo 50, key key"


def test_one_line_number_with_two_photos_matters_only_when_joined_by_line(tmp_path: Path) -> None:
    url = write(tmp_path / "list.tsv", [(1, 2), (1, 3)])
    assert read_subset_list(url, tmp_path / "by_photo", join="photo_id").num_rows == 2
    with pytest.raises(InputError, match="line number 1 is listed with photo 2 and with photo 3"):
        read_subset_list(url, tmp_path / "by_line", join="line")


def test_a_list_without_keys_cannot_be_joined_by_key(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("1\t2\t\n")
    with pytest.raises(InputError, match="no row has a key"):
        read_subset_list(str(tmp_path / "list.tsv"), tmp_path / "lists", join="key")


def test_keys_of_any_length_have_hashes_of_their_own() -> None:
    keys = [b"", b"a", b"aa", b"a" * 31, b"a" * 32, b"b" + b"a" * 31, b"a" * 31 + b"b"]
    hashes = hash_keys(keys)
    assert hashes[0] == 0
    assert len(set(hashes.tolist())) == len(keys)
    assert hash_keys([]).tolist() == []


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
    ],
)
def test_what_is_wrong_with_a_list_is_said(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_subset_list(str(path), tmp_path / "lists", join="line")
    assert str(path) in str(caught.value)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected OpenAI's list"):
        read_subset_list(str(tmp_path / "absent"), tmp_path / "lists", join="line")
