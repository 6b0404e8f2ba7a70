from __future__ import annotations

import io
import json
import logging
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, ShardError
from slip.data.samples import RawSample
from slip.data.tars import TarReader

Members = Sequence[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def plain(num_samples: int) -> list[tuple[str, bytes]]:
    """Members of so many samples; pictures (never decoded here) fill several blocks of the tar."""
    return [
        member
        for n in range(num_samples)
        for member in ((f"{n:03d}.jpg", bytes([n + 1]) * 3000), (f"{n:03d}.txt", f"text {n}".encode()))
    ]


def read(reader: TarReader, url: str) -> list[RawSample]:
    return list(reader.samples(url, lambda num_read: None))


def keys(samples: list[RawSample]) -> list[str]:
    return [sample.key for sample in samples]


def test_samples_are_what_tarfile_reads(tmp_path: Path) -> None:
    url = write_tar(tmp_path / "a.tar", plain(30))
    progress: list[int] = []
    samples = list(TarReader(max_damaged=0).samples(url, progress.append))
    with tarfile.open(url) as tar:
        for n, sample in enumerate(samples):
            member = tar.getmember(f"{n:03d}.jpg")
            content = tar.extractfile(member)
            assert content is not None
            assert sample.image == content.read()
            assert (sample.shard, sample.offset) == (url, member.offset)
            assert (sample.key, sample.captions) == (f"{n:03d}", (f"text {n}",))
    assert len(samples) == 30
    assert sum(progress) == (tmp_path / "a.tar").stat().st_size


def test_members_by_other_names(tmp_path: Path) -> None:
    titled = json.dumps({"title": "a title", "description": "not this", "description_usable": False}).encode()
    url = write_tar(
        tmp_path / "a.tar",
        [
            ("__info__.json", b"{}"),
            ("d/1.PNG", b"one"), ("d/1.caption", b"first"), ("d/1.mp3", b"sound"),
            ("d/2.webp", b"two"), ("d/2.text", b" second\n"), ("d/2.seg.png", b"mask"),
            ("._d/2.jpg", b"rubbish"),
            ("d/3.jpeg", b"three"), ("d/3.json", titled),
        ],
    )  # fmt: skip
    reader = TarReader(max_damaged=0)
    found = [(s.key, s.image, s.captions) for s in read(reader, url)]
    assert found[:2] == [("d/1", b"one", ("first",)), ("d/2", b"two", ("second",))]
    assert found[-1] == ("d/3", b"three", ("a title",))


def test_what_is_not_a_sample_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [
        ("0.mp4", b"film"), ("0.txt", b"text"),
        ("1.jpg", b"one"),
        ("2.jpg", b"two"), ("2.txt", b" \n"),
        ("3.jpg", b""), ("3.txt", b"text"),
        ("4.jpg", b"four"), ("4.jpg", b"again"), ("4.txt", b"text"),
        ("5.wav", b"sound"),
        ("README", b"about"),
    ]  # fmt: skip
    url = write_tar(tmp_path / "a.tar", members)
    reader = TarReader(max_damaged=0)
    samples = read(reader, url)
    assert [(s.key, s.image) for s in samples] == [("4", b"four")]
    assert dict(reader.skipped) == {"no image": 3, "no caption": 2, "member twice": 1}
    assert f"{url}: sample 1 has no .txt" in caplog.text
    assert not reader.damaged

    without_text = TarReader(max_damaged=0, needs_text=False)
    assert keys(read(without_text, url)) == ["1", "2", "4"]


@pytest.mark.parametrize(("member", "num_kept"), [("006.jpg", 6), ("006.txt", 6), ("000.jpg", 0)])
def test_a_tar_cut_inside_a_member(
    tmp_path: Path, member: str, num_kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tar"
    url = write_tar(path, plain(10))
    with tarfile.open(url) as tar:
        cut = tar.getmember(member).offset_data + 3
    path.write_bytes(path.read_bytes()[:cut])
    reader = TarReader(max_damaged=1)
    for _ in range(2):
        assert keys(read(reader, url)) == [f"{n:03d}" for n in range(num_kept)]
    assert list(reader.damaged) == [url]
    assert caplog.text.count("only the samples before are used") == 1
    with pytest.raises(ShardError, match=r"a\.tar: .* makes 1 cut or unreadable tars, --data\.max-damaged allows 0"):
        read(TarReader(max_damaged=0), url)


@pytest.mark.parametrize("num_kept", [1, 4, 9])
def test_a_tar_cut_between_members(tmp_path: Path, num_kept: int) -> None:
    path = tmp_path / "a.tar"
    url = write_tar(path, plain(10))
    with tarfile.open(url) as tar:
        cut = tar.getmember(f"{num_kept:03d}.jpg").offset
    path.write_bytes(path.read_bytes()[:cut])
    reader = TarReader(max_damaged=1)
    assert keys(read(reader, url)) == [f"{n:03d}" for n in range(num_kept)]
    assert f"at byte {cut}" in reader.damaged[url]


@pytest.mark.parametrize("num", [0, 1, 40, 98])
def test_a_damaged_header_is_not_the_end(tmp_path: Path, num: int) -> None:
    path = tmp_path / "a.tar"
    url = write_tar(path, plain(99))
    with tarfile.open(url) as tar:
        offset = tar.getmember(f"{num:03d}.jpg").offset
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 1
    path.write_bytes(data)
    reader = TarReader(max_damaged=1)
    assert keys(read(reader, url)) == [f"{n:03d}" for n in range(num)]
    assert list(reader.damaged) == [url]


def test_joined_tars_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, plain(1))
    one = path.read_bytes()
    path.write_bytes(one.rstrip(b"\0") + bytes(-len(one.rstrip(b"\0")) % 512) + bytes(512) + one)
    reader = TarReader(max_damaged=1)
    assert keys(read(reader, str(path))) == ["000"]
    assert list(reader.damaged) == [str(path)]


def test_unreadable_tars_stop_the_run_beyond_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "page.tar").write_text("<html>moved</html>" * 100)
    (tmp_path / "empty.tar").write_bytes(b"")
    reader = TarReader(max_damaged=2)
    for name in ("page.tar", "empty.tar"):
        assert read(reader, str(tmp_path / name)) == []
        assert name in caplog.text
    with pytest.raises(ShardError, match=r"none\.tar: .*that makes 3"):
        read(reader, str(tmp_path / "none.tar"))
    assert caplog.records[-1].levelno == logging.WARNING


def test_short_reads_of_the_store_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 333))

    url = write_tar(tmp_path / "a.tar", plain(20))
    expected = read(TarReader(max_damaged=0), url)
    data = (tmp_path / "a.tar").read_bytes()
    monkeypatch.setattr("pipeline.store.open_stream", lambda url: Dribble(data))
    assert read(TarReader(max_damaged=0), url) == expected


@pytest.mark.parametrize("package", ["webdataset.tariterators", "braceexpand"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "webdataset"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"webdataset package \(.*{package}.*pip install 'yfcc15m-slip\[eval\]'"):
        TarReader(max_damaged=0)
