from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from obstore.store import MemoryStore

from pipeline.s3_files import BucketFiles


@pytest.fixture
def files() -> BucketFiles:
    """A bucket in memory, behind obstore's interface."""
    objects: Any = MemoryStore()
    objects.put("a/x.tar", b"0123456789")
    objects.put("a/b/y.tar", b"y")
    return BucketFiles("bucket", objects, MemoryFileSystem())


def test_reading_whole_and_in_part(files: BucketFiles) -> None:
    assert files.cat_file("bucket/a/x.tar") == b"0123456789"
    assert files.cat_file("bucket/a/x.tar", start=3, end=5) == b"34"
    with pytest.raises(FileNotFoundError):
        files.cat_file("bucket/a/z.tar")


def test_writing_bytes_and_files(files: BucketFiles, tmp_path: Path) -> None:
    files.pipe_file("bucket/new", b"once")
    files.pipe_file("bucket/new", b"twice")
    assert files.cat_file("bucket/new") == b"twice"
    (tmp_path / "local").write_bytes(bytes(12 << 20))  # in more than one part
    files.put_file(str(tmp_path / "local"), "bucket/long")
    assert files.info("bucket/long")["size"] == 12 << 20


def test_what_there_is(files: BucketFiles) -> None:
    assert files.info("bucket/a/x.tar") == {"name": "bucket/a/x.tar", "size": 10, "type": "file"}
    assert files.info("bucket/a")["type"] == "directory"
    assert files.info("bucket")["type"] == "directory"
    with pytest.raises(FileNotFoundError):
        files.info("bucket/a/x")
    assert sorted(files.ls("bucket/a", detail=False)) == ["bucket/a/b", "bucket/a/x.tar"]
    assert {entry["name"]: entry["type"] for entry in files.ls("bucket/a")} == {
        "bucket/a/b": "directory",
        "bucket/a/x.tar": "file",
    }
    assert files.ls("bucket/none", detail=False) == []


def test_removing(files: BucketFiles) -> None:
    files.rm_file("bucket/a/x.tar")
    with pytest.raises(FileNotFoundError):
        files.info("bucket/a/x.tar")
    assert files.info("bucket/a/b/y.tar")["size"] == 1
