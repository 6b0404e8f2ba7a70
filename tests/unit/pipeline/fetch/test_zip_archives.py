from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.fetch import zip_archives
from pipeline.fetch.sources import Rejected
from pipeline.fetch.zip_archives import member_of, read_zips
from pipeline.records import Reason


def put(root: Path, line: int, data: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    name, member = member_of(line)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr(member, data)
    return path


def answers(root: Path, lines: list[int]) -> list[bytes | Rejected]:
    found = dict(read_zips(root, lines))
    assert sorted(found) == list(range(len(lines)))
    return [found[index] for index in range(len(lines))]


def fault(root: Path, line: int) -> Rejected:
    (answer,) = answers(root, [line])
    assert isinstance(answer, Rejected)
    assert str(root) not in answer.detail, "details must not depend on the machine"
    return answer


@pytest.mark.parametrize(
    ("line", "name", "member"),
    [
        (12_345_678, "12/345.zip", "678.jpg"),
        (0, "00/000.zip", "000.jpg"),
        (7, "00/000.zip", "007.jpg"),
        (99_999_999, "99/999.zip", "999.jpg"),
        (1_000, "00/001.zip", "000.jpg"),
    ],
)
def test_the_published_layout(line: int, name: str, member: str) -> None:
    assert member_of(line) == (name, member)


@pytest.mark.parametrize("below", ["", "images"])
def test_members_are_read_in_any_order_and_each_archive_once(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [5_001, 12_345_678, 5_000, 99_999_999, 5_999, 12_345_000, 5_001]
    for line in set(lines):
        put(
            tmp_path / below, line, f"picture {line}".encode(), zipfile.ZIP_DEFLATED if line % 2 else zipfile.ZIP_STORED
        )
    opened: list[str] = []
    real = zip_archives._open

    def note(root: Path, name: str) -> zipfile.ZipFile | Rejected:
        opened.append(name)
        return real(root, name)

    monkeypatch.setattr(zip_archives, "_open", note)
    assert answers(tmp_path, lines) == [f"picture {line}".encode() for line in lines]
    assert sorted(opened) == ["00/005.zip", "12/345.zip", "99/999.zip"]


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    put(tmp_path, 5_001, b"there")
    assert fault(tmp_path, 5_002) == Rejected(reason=Reason.MISSING_FILE, detail="no 002.jpg in 00/005.zip")
    assert fault(tmp_path, 6_000) == Rejected(reason=Reason.MISSING_FILE, detail="no archive 00/006.zip")
    assert fault(tmp_path, -1).reason is Reason.MISSING_FILE
    assert fault(tmp_path, 10**8).reason is Reason.MISSING_FILE
    (tmp_path / "00" / "007.zip").mkdir()
    assert fault(tmp_path, 7_000).reason is Reason.MISSING_FILE


@pytest.mark.parametrize("damage", ["cut", "no zip", "empty"])
def test_a_damaged_archive_is_named(damage: str, tmp_path: Path) -> None:
    path = put(tmp_path, 5_001, b"x" * 5000)
    data = {"cut": path.read_bytes()[:3000], "no zip": b"<html>" * 100, "empty": b""}[damage]
    path.write_bytes(data)
    found = fault(tmp_path, 5_001)
    assert found.reason is Reason.TRUNCATED
    assert "00/005.zip" in found.detail


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_byte_is_noticed_and_does_not_hide_its_neighbours(method: int, tmp_path: Path) -> None:
    put(tmp_path, 5_001, b"first" * 100, method)
    path = put(tmp_path, 5_002, bytes(range(256)) * 20, method)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("002.jpg")
    data[info.header_offset + 40 + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)
    first, second = answers(tmp_path, [5_001, 5_002])
    assert first == b"first" * 100
    assert isinstance(second, Rejected)
    assert (second.reason, "002.jpg in 00/005.zip is damaged" in second.detail) == (Reason.TRUNCATED, True), second


def test_every_flipped_byte_is_an_answer(tmp_path: Path) -> None:
    path = put(tmp_path, 5_001, b"some picture" * 5, zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0xFF
        path.write_bytes(data)
        (answer,) = answers(tmp_path, [5_001])
        assert isinstance(answer, Rejected) or answer == b"some picture" * 5, at


def test_a_member_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archives, "MAX_MEMBER_BYTES", 10_000)
    put(tmp_path, 5_001, bytes(10_001), zipfile.ZIP_DEFLATED)
    assert fault(tmp_path, 5_001).reason is Reason.BOMB
