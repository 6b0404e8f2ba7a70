"""The members of a tar read once from begin to end: names, places and bytes, with the digest of the whole.

In: a stream and the URL it came from, for messages. Out: `Member`s in the order of the tar. Everything that shows that
the tar is not whole is a `DamagedTarError` naming the byte: a header whose checksum is wrong, an end in the middle of
a member, an end without the end-of-archive block, anything but zeros behind it.

Formats: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format" (long
names, base-256 numbers). Python's tarfile reads them all, but takes an end at a member's border for the end of the
archive and does not say where a member's first header is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import ShardError

BLOCK_BYTES = 512
PIECE_BYTES = 1 << 20
"""Bytes asked for at a time."""

_ZEROS = bytes(PIECE_BYTES)
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or a pax record; longer ones are not names
_FILE_TYPES = frozenset(b"07\0")
_TYPES_WITHOUT_DATA = frozenset(b"123456")  # links, devices, folders, pipes: their size field means nothing
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"xgLKS"
_SOLARIS_PAX = ord("X")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}

Watch = Callable[[int], None]
"""watch(bytes that arrived), called for every piece; what it raises ends the reading."""


class DamagedTarError(ShardError):
    """A file that is not a whole tar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of a tar; its bytes are [start, end), those of its content [offset, offset + size)."""

    name: str
    """Bytes that are not UTF-8 are lone surrogates, as `surrogateescape` makes them."""
    is_file: bool
    """A plain file; links, folders and devices are not."""
    start: int
    """Of its first header, that of a long name included."""
    offset: int
    size: int
    headers: bytes
    """The tar's bytes [start, offset)."""

    @property
    def end(self) -> int:
        """Where the next member begins: the content is filled up to whole blocks."""
        return self.offset + padded(self.size)


def padded(num_bytes: int) -> int:
    """Rounded up to whole blocks: 1 -> 512."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or base 256 when the first bit is set (GNU). ValueError for anything else."""
    if field[0] & 0x80:
        if field[0] not in {0x80, 0xFF}:
            raise ValueError
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise ValueError
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    """A text of a header, which ends at its first zero."""
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _checksum_fits(block: bytes) -> bool:
    try:
        stated = _number(block[148:156])
    except ValueError:
        return False
    own = block[148:156]  # which counts as eight spaces
    found = sum(block) - sum(own) + 8 * ord(" ")
    # Some old programs added signed bytes.
    return stated == found or stated == found - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _pax_records(data: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header; ValueError when they are not."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit():
            raise ValueError
        end = at + int(length)
        record = data[at + len(length) + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or record[-1:] != b"\n" or not equals:
            raise ValueError
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


class TarStream:
    """Reads a tar from begin to end; holds a piece and the content asked for."""

    def __init__(self, stream: BinaryIO, url: str, watch: Watch | None = None) -> None:
        self._stream, self._url, self._watch = stream, url, watch
        self._digest = hashlib.sha256()
        self._buffer, self._used = b"", 0
        self._position = 0  # of the next byte to be taken
        self._global: dict[str, str] = {}

    @property
    def sha256(self) -> str:
        """Of what was read; of the whole file once `members` has come to its end."""
        return self._digest.hexdigest()

    @property
    def num_bytes(self) -> int:
        """How far the tar was read; its size once `members` has come to its end."""
        return self._position

    def _fill(self, length: int) -> None:
        """Have `length` bytes in the buffer, or all there are."""
        pieces = [self._buffer[self._used :]]
        missing = length - len(pieces[0])
        while missing > 0:
            piece = self._stream.read(max(missing, PIECE_BYTES))
            if not piece:
                break
            self._digest.update(piece)
            if self._watch is not None:
                self._watch(len(piece))
            pieces.append(piece)
            missing -= len(piece)
        self._buffer, self._used = b"".join(pieces), 0

    def _take(self, length: int, what: str) -> memoryview:
        """The next `length` bytes; `what` they belong to is named when there are fewer."""
        if self._used + length > len(self._buffer):
            self._fill(length)
        data = memoryview(self._buffer)[self._used : self._used + length]
        if len(data) < length:
            raise DamagedTarError(
                f"{self._url}: it is cut: it ends at byte {self._position + len(data)}, in {what} that should end at "
                f"byte {self._position + length}; fetch it again"
            )
        self._used += length
        self._position += length
        return data

    def read(self, member: Member) -> memoryview:
        """The whole content with its padding; only for the member that came last, and once."""
        return self._take(member.end - self._position, f"member {member.name!r}")

    def pieces(self, member: Member) -> Iterator[memoryview]:
        """What is left of the content and its padding, piece by piece."""
        while self._position < member.end:
            yield self._take(min(PIECE_BYTES, member.end - self._position), f"member {member.name!r}")

    def _fault(self, at: int, found: str) -> DamagedTarError:
        return DamagedTarError(f"{self._url}: damaged at byte {at}: {found}; fetch it again")

    def _block(self) -> bytes | None:
        """The next header, checked; None for the block of zeros that ends the archive."""
        at = self._position
        if self._used == len(self._buffer):
            self._fill(1)
            if not self._buffer:
                what = "it ends without an end-of-archive block" if at else "it is empty"
                raise DamagedTarError(f"{self._url}: it is cut: {what} at byte {at}; fetch it again")
        block = bytes(self._take(BLOCK_BYTES, "a header"))
        if block == _ZEROS[:BLOCK_BYTES]:
            return None
        if not _checksum_fits(block):
            if at == 0:
                packed = _COMPRESSED.get(block[:2])
                cure = f"unpack it ({packed})" if packed else "is this the right file?"
                raise DamagedTarError(f"{self._url}: not a tar, it begins with {block[:16]!r}; {cure}")
            raise self._fault(at, f"expected a header, found {block[:16]!r}... with a wrong checksum")
        return block

    def _extension(self, size: int, at: int) -> bytes:
        if size > _MAX_EXTENSION_BYTES:
            raise self._fault(at, f"a name or pax header of {size} bytes")
        return bytes(self._take(padded(size), "an extended header"))

    def _next(self) -> Member | None:
        """The next member with all its headers; None at the end of the archive."""
        start, headers = self._position, b""
        long_name: str | None = None
        pax: dict[str, str] = {}
        while True:
            at = self._position
            block = self._block()
            if block is None:
                if headers:
                    raise self._fault(at, "the archive ends after an extended header")
                return None
            headers += block
            try:
                size, kind = _number(block[124:136]), block[156]
                if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SOLARIS_PAX):
                    content = self._extension(size, at)
                    headers += content
                    if kind == _LONG_NAME:
                        long_name = _text(content[:size])
                    elif kind == _PAX_GLOBAL:
                        self._global |= _pax_records(content[:size])
                    elif kind != _LONG_LINK:
                        pax |= _pax_records(content[:size])
                    continue
                return self._member(block, size, start, headers, long_name, self._global | pax)
            except ValueError:
                raise self._fault(at, f"a header that cannot be read ({block[:16]!r}...)") from None

    def _member(
        self, block: bytes, size: int, start: int, headers: bytes, long_name: str | None, pax: dict[str, str]
    ) -> Member:
        """A member from its last header and what the extended ones said; ValueError when a number cannot be read."""
        kind, name = block[156], _text(block[:100])
        # Only POSIX has a prefix; GNU tar keeps times in its place.
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        name = pax.get("path") or long_name or name
        if kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in pax):
            raise self._fault(start, f"{name!r} is stored as a sparse file, which cannot be read in place")
        if "size" in pax:
            size = int(pax["size"])
        if size < 0:
            raise ValueError
        # Before POSIX a folder was a file whose name ends in a slash.
        is_old_folder = kind == 0 and name.endswith("/")
        if kind in _TYPES_WITHOUT_DATA or is_old_folder:
            size = 0
        is_file = kind in _FILE_TYPES and not is_old_folder
        return Member(name=name, is_file=is_file, start=start, offset=self._position, size=size, headers=headers)

    def members(self) -> Iterator[Member]:
        """The members in order; what the caller does not read of one is skipped. Then the file is read to its end."""
        while (member := self._next()) is not None:
            yield member
            for _ in self.pieces(member):
                pass
        end = self._position
        while True:
            rest = self._buffer[self._used :]
            if rest != _ZEROS[: len(rest)]:
                raise self._fault(end, "more data after the end of the archive: a hole, or several tars in one file")
            self._position += len(rest)
            self._used = len(self._buffer)
            self._fill(1)
            if not self._buffer:
                return
