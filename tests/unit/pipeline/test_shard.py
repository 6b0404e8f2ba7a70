from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.shard import MAX_MEMBER_BYTES, TarWriter, caption, header

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\x00", exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=100,
).filter(lambda name: len(name.encode()) <= 100 and name not in {".", ".."})
MEMBERS = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=40)


@settings(deadline=None)
@given(MEMBERS)
def test_same_bytes_as_tarfile_and_offsets_that_fit(members: dict[str, bytes]) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(ours)
    starts = {name: writer.add(name, data) for name, data in members.items()}
    digest = writer.finish()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
    whole = ours.getvalue()
    assert whole == theirs.getvalue()
    assert len(whole) == writer.offset
    assert digest == hashlib.sha256(whole).hexdigest()
    for name, data in members.items():
        assert whole[starts[name] : starts[name] + len(data)] == data
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.mtime, member.mode) == (0, 0, 0, 0o644)


@settings(deadline=None)
@given(st.lists(st.lists(st.binary(max_size=1500), min_size=1, max_size=3), max_size=10))
def test_each_sample_has_the_digest_of_its_bytes(samples: list[list[bytes]]) -> None:
    file = io.BytesIO()
    writer = TarWriter(file)
    found = []
    for i, sample in enumerate(samples):
        start = writer.offset
        for j, data in enumerate(sample):
            writer.add(f"{i}.{j}", data)
        found.append((start, writer.offset, writer.sample_sha256()))
    writer.finish()
    for start, end, digest in found:
        assert digest == hashlib.sha256(file.getvalue()[start:end]).hexdigest()


def test_what_no_header_can_hold() -> None:
    assert len(header("é" * 50, 0)) == 512
    with pytest.raises(ShardError, match="longer than the 100 bytes"):
        header("é" * 50 + "x", 0)
    assert len(header("x", MAX_MEMBER_BYTES)) == 512
    with pytest.raises(ShardError, match="more than a tar header can say"):
        header("x", MAX_MEMBER_BYTES + 1)


@pytest.mark.parametrize(
    ("title", "title_usable", "description", "description_usable", "expected"),
    [
        ("t", True, "d", True, "d"),
        ("t", True, "d", False, "t"),
        ("t", False, "d", True, "d"),
        ("t", True, "", False, "t"),
        ("", False, "d", True, "d"),
    ],
)
def test_caption(title: str, title_usable: bool, description: str, description_usable: bool, expected: str) -> None:
    row = {"title": title, "title_usable": title_usable}
    assert caption(row | {"description": description, "description_usable": description_usable}) == expected
