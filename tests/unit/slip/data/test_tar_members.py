"""Tars read by the parser as by tarfile, with the place of every byte; damage is noticed wherever it is."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from slip.data import tar_members as t

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PART = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
NAMES = st.lists(PART.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=9).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
MEMBERS = st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=1500)), max_size=8)


def tar_of(members: list[tuple[str, bytes, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of (name, type, content), without the members this format cannot hold."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            is_file = info.isreg()
            info.size = len(content) if is_file else 0
            info.linkname = "" if is_file or kind == tarfile.DIRTYPE else "target/" * 30
            try:
                tar.addfile(info, io.BytesIO(content) if is_file else None)
            except ValueError:
                assert tar_format == tarfile.USTAR_FORMAT
    return sink.getvalue()


class Drops(io.RawIOBase):
    """A stream that gives a few bytes at a time, as networks do."""

    def __init__(self, data: bytes, most: int) -> None:
        self._file, self._most = io.BytesIO(data), most

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(min(size, self._most))


def read_all(data: bytes, most: int = 1 << 30) -> tuple[list[t.Member], list[bytes], t.TarStream]:
    tar = t.TarStream(Drops(data, most), "s3://b/x.tar")  # type: ignore[arg-type]
    members, contents = [], []
    for member in tar.members():
        members.append(member)
        contents.append(bytes(tar.read(member)[: member.size]))
    return members, contents, tar


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=60)
@given(members=MEMBERS, most=st.sampled_from([100, 512, 5000, 1 << 30]))
def test_as_tarfile_reads_it(name: str, members: list[tuple[str, bytes, bytes]], most: int) -> None:
    data = tar_of(members, FORMATS[name])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.isreg(), info.offset, info.offset_data, info.size) for info in tar]
    found, contents, stream = read_all(data, most)
    assert [(m.name.rstrip("/"), m.is_file, m.start, m.offset, m.size) for m in found] == [
        (member_name.rstrip("/"), *rest) for member_name, *rest in expected
    ]
    for member, content in zip(found, contents, strict=True):
        assert data[member.offset : member.offset + member.size] == content
        assert data[member.start : member.offset] == member.headers
    assert [m.start for m in found[1:]] == [m.end for m in found[:-1]]
    assert (stream.num_bytes, stream.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@settings(deadline=None, max_examples=30)
@given(members=MEMBERS)
def test_what_is_not_read_is_skipped(members: list[tuple[str, bytes, bytes]]) -> None:
    data = tar_of(members, tarfile.PAX_FORMAT)
    arrived: list[int] = []
    tar = t.TarStream(io.BytesIO(data), "x.tar", arrived.append)
    assert [m.start for m in tar.members()] == [m.start for m in read_all(data)[0]]
    assert tar.sha256 == hashlib.sha256(data).hexdigest()
    assert sum(arrived) == len(data)


SMALL = [("a.jpg", tarfile.REGTYPE, b"x" * 700), ("n" * 150, tarfile.REGTYPE, b"y"), ("a.txt", tarfile.REGTYPE, b"")]


@pytest.mark.parametrize("name", ["gnu", "pax"])
def test_a_cut_at_any_block_is_noticed_unless_only_zeros_are_lost(name: str) -> None:
    data = tar_of(SMALL, FORMATS[name])
    last = read_all(data)[0][-1].end
    for length in range(0, len(data), 512):
        if length > last:
            assert len(read_all(data[:length])[0]) == 3
        else:
            with pytest.raises(t.DamagedTarError, match=rf"^s3://b/x\.tar: it is cut: it .*byte {length}\b"):
                read_all(data[:length])
    for length in (1, 511, 513, last - 1, last + 511):
        with pytest.raises(t.DamagedTarError, match="it is cut"):
            read_all(data[:length])


def test_a_changed_bit_in_any_header_is_noticed() -> None:
    data = tar_of(SMALL, tarfile.GNU_FORMAT)
    for member in read_all(data)[0]:
        for at in (member.offset - 512, member.offset - 400, member.offset - 360, member.offset - 1):
            damaged = bytearray(data)
            damaged[at] ^= 4
            with pytest.raises(t.DamagedTarError, match=r"damaged at byte \d+: expected a header|not a tar"):
                read_all(bytes(damaged))


def with_header(**changes: bytes) -> bytes:
    """A tar of one member, fields of its header replaced and the checksum put right."""
    places = {"name": 0, "size": 124, "type": 156, "magic": 257, "prefix": 345}
    data = bytearray(tar_of([("a.jpg", tarfile.REGTYPE, b"abc")]))
    for field, value in changes.items():
        data[places[field] : places[field] + len(value)] = value
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "name", "size"),
    [
        ({"size": b"\x80" + bytes(10) + b"\x03"}, "a.jpg", 3),
        ({"size": b"          3\0"}, "a.jpg", 3),
        ({"size": b"3\0garbage"}, "a.jpg", 3),
        ({"magic": b"ustar\x0000", "prefix": b"dir"}, "dir/a.jpg", 3),
        ({"magic": b"ustar  \0", "prefix": b"14573021"}, "a.jpg", 3),  # GNU: a time
        ({"magic": bytes(8), "type": b"\0"}, "a.jpg", 3),
        ({"name": b"\xff.jpg\0"}, "\udcff.jpg", 3),
    ],
)
def test_headers_of_many_writers(changes: dict[str, bytes], name: str, size: int) -> None:
    members, contents, _ = read_all(with_header(**changes))
    assert [(m.name, m.is_file, m.size) for m in members] == [(name, True, size)]
    assert contents == [b"abc"]


def test_a_folder_before_posix() -> None:
    header = with_header(name=b"folder/\0", type=b"\0", magic=bytes(8))[:512]
    members = read_all(header + tar_of(SMALL[:1]))[0]
    assert [(m.name, m.is_file, m.size) for m in members] == [("folder/", False, 0), ("a.jpg", True, 700)]


def test_signed_checksums() -> None:
    data = bytearray(with_header(name="é.jpg".encode() + b"\0"))
    data[148:156] = b"%06o\0 " % (int(data[148:154], 8) - 256 * 2)
    assert read_all(bytes(data))[0][0].name == "é.jpg"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty at byte 0"),
        (b"\x1f\x8b" + bytes(2000), r"not a tar, it begins with .*unpack it \(gzip\)"),
        (b"<!DOCTYPE html>" * 100, "not a tar, it begins with b'<!DOCTYPE html><'; is this the right file"),
        (with_header(size=b"12x4567"), "damaged at byte 0: a header that cannot be read"),
        (with_header(size=b"\xff" * 12), "damaged at byte 0: a header that cannot be read"),
        (with_header(size=b"\x90"), "damaged at byte 0: a header that cannot be read"),
        (with_header(type=b"S"), "'a.jpg' is stored as a sparse file"),
        (with_header(type=b"x"), "damaged at byte 0: a header that cannot be read"),
        (with_header(type=b"L", size=b"77777777777"), "a name or pax header of 8589934591 bytes"),
        (with_header(type=b"L"), "damaged at byte 1024: the archive ends after an extended header"),
        (tar_of(SMALL[:1]) + tar_of(SMALL[:1]), "damaged at byte 2048: more data after the end of the archive"),
    ],
)
def test_what_is_no_whole_tar_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=rf"^s3://b/x\.tar: .*{message}"):
        read_all(data)


@pytest.mark.parametrize(
    "record", [b"5 a=", b"8 a=bcde\n", b"x a=b\n", b" 6 a=b\n", b"6 abc\n", b"99 a=b\n", b"6 a=bcd"]
)
def test_broken_pax_records(record: bytes) -> None:
    header = bytearray(with_header(type=b"x", size=b"%011o" % len(record)))
    header[512 : 512 + len(record)] = record
    data = bytes(header[:1024]) + tar_of(SMALL[:1])
    with pytest.raises(t.DamagedTarError, match="damaged at byte 0: a header that cannot be read"):
        read_all(data)


def test_a_pax_size_counts() -> None:
    content = b"z" * 1000
    whole = tar_of([("b.jpg", tarfile.REGTYPE, content)])
    record = b"13 size=1000\n"
    extended = bytearray(with_header(type=b"x", size=b"%011o" % len(record))[:1024])
    extended[512:] = record.ljust(512, b"\0")
    lying = bytearray(whole)
    lying[124:136] = b"%011o\0" % 0
    lying[148:156] = b" " * 8
    lying[148:156] = b"%06o\0 " % sum(lying[:512])
    members, contents, _ = read_all(bytes(extended) + bytes(lying))
    assert (members[0].start, members[0].offset, contents) == (0, 1536, [content])
