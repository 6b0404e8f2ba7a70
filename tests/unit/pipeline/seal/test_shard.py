from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.seal.shard import (
    MAX_MEMBER_BYTES,
    Sample,
    TarWriter,
    build_shard,
    caption,
    header,
    image_offsets,
)
from pipeline.shard_index import index_bytes

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\x00", exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=100,
).filter(lambda name: len(name.encode()) <= 100 and name not in {".", ".."})
MEMBERS = st.lists(st.dictionaries(NAMES, st.binary(max_size=2000), min_size=1, max_size=3), max_size=12)
SAMPLE = Sample(
    key="k",
    title="t",
    description="d",
    title_usable=True,
    description_usable=True,
    user="u",
    date_taken="",
    page_url="",
    license="CC BY",
    license_url="",
    url="",
    width=3,
    height=2,
    image_ext="jpg",
    image_size=0,
    image_sha256="",
)


@settings(deadline=None)
@given(MEMBERS)
def test_same_bytes_as_tarfile_and_offsets_and_digests_that_fit(samples: list[dict[str, bytes]]) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(ours)
    found = []
    for members in samples:
        begin = writer.offset
        starts, sha256, crc32 = writer.add(list(members.items()))
        assert crc32 == zlib.crc32(ours.getvalue()[begin:])
        found.append((begin, writer.offset, starts, sha256, members))
    digest = writer.finish()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for members in samples:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.mode = 0o644
                tar.addfile(info, io.BytesIO(data))
    whole = ours.getvalue()
    assert whole == theirs.getvalue()
    assert len(whole) == writer.offset
    assert digest == hashlib.sha256(whole).hexdigest()
    for begin, end, starts, sha256, members in found:
        assert hashlib.sha256(whole[begin:end]).hexdigest() == sha256
        assert [whole[start:][: len(data)] for start, data in zip(starts, members.values(), strict=True)] == [
            *members.values()
        ]
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.mtime, member.mode) == (0, 0, 0, 0o644)


@given(NAMES, st.integers(0, MAX_MEMBER_BYTES))
def test_headers_are_tarfiles(name: str, num_bytes: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = num_bytes, 0o644
    assert header(name, num_bytes) == info.tobuf(tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")


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
        ("t", False, "", False, "t"),
    ],
)
def test_caption(title: str, title_usable: bool, description: str, description_usable: bool, expected: str) -> None:
    sample = replace(SAMPLE, title=title, title_usable=title_usable)
    assert caption(replace(sample, description=description, description_usable=description_usable)) == expected


@pytest.mark.parametrize("is_resized", [False, True])
@settings(deadline=None, max_examples=30)
@given(pictures=st.lists(st.tuples(st.binary(max_size=1500), st.text(max_size=600)), max_size=6))
def test_where_pictures_lie_is_known_without_them(
    tmp_path_factory: pytest.TempPathFactory, is_resized: bool, pictures: list[tuple[bytes, str]]
) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    samples = [
        replace(SAMPLE, key=f"{i:03d}", title=text, image_size=len(data)) for i, (data, text) in enumerate(pictures)
    ]
    pairs = zip(samples, (data for data, _ in pictures), strict=True)
    built = build_shard(7, pairs, path, is_resized=is_resized)
    offsets = image_offsets(samples, is_resized=is_resized)
    assert offsets == built.index["image_offset"].to_pylist()
    whole = path.read_bytes()
    assert [whole[at:][: len(data)] for at, (data, _) in zip(offsets, pictures, strict=True)] == [
        data for data, _ in pictures
    ]
    assert (built.shard.name, built.shard.index, built.shard.num_bytes) == ("00007.tar", "00007.parquet", len(whole))
    assert built.shard.sha256 == hashlib.sha256(whole).hexdigest()
    assert built.shard.index_sha256 == hashlib.sha256(index_bytes(built.index)).hexdigest()


def test_a_shard_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"missing/a\.tar: cannot write"):
        build_shard(0, [(SAMPLE, b"x")], tmp_path / "missing" / "a.tar", is_resized=False)
