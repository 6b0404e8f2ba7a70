"""Unpack bzip2 with several threads, wherever it comes from and whoever packed it.

A file is one or more streams; a stream is a header, blocks of at most 900,000 bytes that do not need one another, and
an end mark with a checksum (format: github.com/dsnet/compress, doc/bzip2-format.pdf). A block begins at any bit, with
a mark of 48 bits. Blocks are found by their marks, made into streams of their own and given to `bz2`, which lets other
threads run meanwhile. All checksums are checked: blocks' by `bz2`, streams' here. That is why no library
does it: where the mark of the first block was damaged, indexed_bzip2 1.7.0 began with the second one and said nothing.
"""

from __future__ import annotations

import bz2
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

HEADER = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""How a bzip2 file begins."""

_STREAM = re.compile(rb"BZh[1-9]")
_BLOCK = 0x314159265359
_END = 0x177245385090
_MARK_BITS = 48
_CRC_BITS = 32
_HEADER_BYTES = 4
_MAX_POINTER = 900_000
_PIECE_BYTES = 1 << 20
_MAX_PACKED_BYTES = 4 << 20
"""More without a mark is no block: one holds 900,000 bytes, and packing hardly ever enlarges them."""


class Bzip2Error(ValueError):
    """The data is damaged or cut short; `position` says where, in bytes of the file."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(what)
        self.position = position


def bits(data: bytes | bytearray, start: int, stop: int) -> int:
    """The bits [start, stop) of data as a number, the first bit highest: (b"\\x0f\\xf0", 4, 12) -> 0xff."""
    value = int.from_bytes(data[start // 8 : -(-stop // 8)], "big")
    return (value >> (-stop % 8)) & ((1 << (stop - start)) - 1)


def _whole_bytes(mark: int) -> list[tuple[int, bytes]]:
    """For each place in a byte where a mark may begin: how many of its bits come before the first whole byte, and
    its whole bytes."""
    found = []
    for before in range(8):
        count = (_MARK_BITS - before) // 8
        middle = mark >> (_MARK_BITS - before - 8 * count) & ((1 << 8 * count) - 1)
        found.append((before, middle.to_bytes(count, "big")))
    return found


_PATTERNS = [(mark, before, middle) for mark in (_BLOCK, _END) for before, middle in _whole_bytes(mark)]


def find_marks(data: bytes | bytearray, start: int, stop: int) -> list[int]:
    """Bits at which marks begin whose first whole byte is in [start, stop), in order."""
    found = []
    for mark, before, middle in _PATTERNS:
        at = data.find(middle, start, stop + len(middle) - 1)
        while at != -1:
            bit = 8 * at - before
            if 0 <= bit <= 8 * len(data) - _MARK_BITS and bits(data, bit, bit + _MARK_BITS) == mark:
                found.append(bit)
            at = data.find(middle, at + 1, stop + len(middle) - 1)
    return sorted(found)


class _Window:
    """A part of the file that grows at its end and is cut at its beginning; bits are counted from its beginning."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.data = bytearray()
        self.first_byte = 0
        self._marks: deque[int] = deque()
        self._searched = 0
        self._is_whole = False

    def _grow(self) -> bool:
        """Read on; False at the end of the file."""
        piece = b"" if self._is_whole else self._read(_PIECE_BYTES)
        self._is_whole = not piece
        self.data += piece
        # A mark and the numbers behind it are looked at only when all of them are here, or nothing more comes.
        stop = max(self._searched, len(self.data) - (0 if self._is_whole else 24))
        self._marks.extend(find_marks(self.data, self._searched, stop))
        self._searched = stop
        return not self._is_whole

    def has(self, num_bytes: int) -> bool:
        """Whether there are so many bytes, having read what can be read."""
        while len(self.data) < num_bytes and self._grow():
            pass
        return len(self.data) >= num_bytes

    def marks(self) -> Iterator[int]:
        """All marks from the beginning on, as far as a block may reach."""
        index = 0
        while True:
            while index < len(self._marks):
                yield self._marks[index]
                index += 1
            if len(self.data) > _MAX_PACKED_BYTES or self._is_whole:
                return
            self._grow()

    def cut(self, num_bytes: int) -> None:
        """Forget the first bytes."""
        del self.data[:num_bytes]
        self.first_byte += num_bytes
        self._searched = max(0, self._searched - num_bytes)
        self._marks = deque(bit - 8 * num_bytes for bit in self._marks if bit >= 8 * num_bytes)


def _unpack_block(packed: bytes, start: int, stop: int, position: int) -> bytes:
    """The content of the block at the bits [start, stop)."""
    num_bits = stop - start
    block = bits(packed, start, stop)
    crc = bits(packed, start + _MARK_BITS, start + _MARK_BITS + _CRC_BITS)
    padding = -num_bits % 8
    stream = (((block << _MARK_BITS) | _END) << _CRC_BITS | crc) << padding
    unpacker = bz2.BZ2Decompressor()
    try:
        data = unpacker.decompress(b"BZh9" + stream.to_bytes((num_bits + _MARK_BITS + _CRC_BITS + padding) // 8, "big"))
    except (OSError, ValueError, EOFError) as error:
        raise Bzip2Error(str(error), position) from error
    if not unpacker.eof or unpacker.unused_data:
        raise Bzip2Error("a block has the wrong length", position)
    return data


def _end_of_block(window: _Window, start: int, combined: int) -> int:
    """The bit at which what follows the block begins: another block, or the end mark of the stream.

    What only looks like a mark, inside a block, has not the checksum that belongs there, or points outside a block:
    by chance that happens in one of 40,000 files of 15 GB, and then an error, never wrong data.
    """
    for bit in window.marks():
        number = bit + _MARK_BITS
        if bit <= start:
            continue
        if bits(window.data, bit, number) == _END:
            if bits(window.data, number, number + _CRC_BITS) == combined:
                return bit
        elif bits(window.data, number + _CRC_BITS + 1, number + _CRC_BITS + 25) < _MAX_POINTER:
            return bit
    is_long = len(window.data) > _MAX_PACKED_BYTES
    raise Bzip2Error("a block has no end" if is_long else "the data ends inside a block", window.first_byte)


def _blocks(window: _Window) -> Iterator[tuple[bytes, int, int]]:
    """All blocks of all streams: bytes that hold one, and the bits in them at which it begins and ends.

    Afterwards, until the next is asked for, the window begins where the block does.
    """
    while window.has(1):
        if not window.has(_HEADER_BYTES) or not _STREAM.match(window.data):
            raise Bzip2Error("no bzip2 stream where one should begin", window.first_byte)
        combined, start = 0, 8 * _HEADER_BYTES
        while True:
            number = start + _MARK_BITS
            if not window.has(-(-(number + _CRC_BITS) // 8)):
                raise Bzip2Error("the data ends inside a stream", window.first_byte)
            mark, crc = bits(window.data, start, number), bits(window.data, number, number + _CRC_BITS)
            if mark == _END and crc == combined:
                window.cut(-(-(number + _CRC_BITS) // 8))
                break
            if mark != _BLOCK:
                raise Bzip2Error("neither a block nor a stream's end where one should begin", window.first_byte)
            combined = ((combined << 1 | combined >> 31) & 0xFFFFFFFF) ^ crc
            stop = _end_of_block(window, start, combined)
            yield bytes(window.data[: -(-stop // 8)]), start, stop
            window.cut(stop // 8)
            start = stop % 8


def unpack(read: Callable[[int], bytes], *, threads: int) -> Iterator[tuple[bytes, int]]:
    """The content in pieces, in order, each with how many bytes of the file it and all before it took.

    Raises:
        Bzip2Error: before anything wrong is handed out.
    """
    window = _Window(read)
    waiting: deque[tuple[Future[bytes], int]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="bzip2") as pool:
        try:
            for packed, start, stop in _blocks(window):
                position = window.first_byte
                waiting.append((pool.submit(_unpack_block, packed, start, stop, position), position + len(packed)))
                if len(waiting) > 2 * threads:
                    future, done = waiting.popleft()
                    yield future.result(), done
            while waiting:
                future, done = waiting.popleft()
                yield future.result(), window.first_byte if not waiting else done
        finally:
            for future, _ in waiting:
                future.cancel()
