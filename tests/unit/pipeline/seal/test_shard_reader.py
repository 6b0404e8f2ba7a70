from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import store
from pipeline.errors import ShardError
from pipeline.seal import shard_reader


@settings(deadline=None)
@given(
    gaps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 90)), max_size=30),
    cut=st.integers(0, 400),
    piece=st.integers(1, 200),
)
def test_spans_are_slices(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[tuple[int, int]], cut: int, piece: int
) -> None:
    spans, offset = [], 0
    for gap, size in gaps:
        spans.append((offset + gap, size))
        offset += gap + size
    whole = random.Random(0).randbytes(max(0, offset - cut))
    path = tmp_path_factory.mktemp("spans") / "a"
    path.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_reader, "PIECE_BYTES", piece)
        found = list(shard_reader.read_spans(str(path), len(whole), spans))
        assert b"".join(shard_reader.pieces(str(path), len(whole))) == whole
    assert found == [whole[start : start + size] for start, size in spans]


def test_neighbours_are_read_together_and_no_read_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10_000))
    lengths: list[int] = []
    real = store.read_range

    def counted(url: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return real(url, start, length)

    monkeypatch.setattr(store, "read_range", counted)
    monkeypatch.setattr(shard_reader, "PIECE_BYTES", 1000)
    assert len(list(shard_reader.read_spans(str(path), 10_000, [(i * 100, 100) for i in range(100)]))) == 100
    assert lengths == [1000] * 10


def test_a_picture_is_compared_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    path.write_bytes(b"....picture")
    file = shard_reader.PictureFile(path, "do this")
    digest = hashlib.sha256(b"picture").hexdigest()
    assert file.read("k", 4, 7, digest) == b"picture"
    for offset, size in ((3, 7), (4, 6), (100, 7), (-1, 7)):
        with pytest.raises(ShardError, match=rf"00000\.tar: the picture of key k at byte {offset} has .*; do this"):
            file.read("k", offset, size, digest)
    file.close()
    with pytest.raises(ShardError, match=r"gone\.tar: the unit's pictures are gone; do this"):
        shard_reader.PictureFile(tmp_path / "gone.tar", "do this")
