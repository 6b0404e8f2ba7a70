"""Big tab-separated text files, plain or bzip2, wherever fsspec reads: blocks of whole lines, split into columns.

Memory is bounded by a block and the longest line. What columns mean, and whether a malformed line is
counted or ends the run, is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from pipeline import store
from pipeline.errors import InputError
from pipeline.metadata.bzip2 import HEADER, Bzip2Error, unpack
from pipeline.store_faults import translated

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 64 << 20
"""A longer line means that the file is something else; YFCC100M's longest has 197,990 bytes."""

MAX_DIGITS = 18
"""Numbers of more digits may not fit into 64 bits."""

_HEAD_BYTES = 16
_PIECE_BYTES = 1 << 17
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"SQLite format 3": "SQLite",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive whole lines of a file, each with its line feed."""

    url: str
    data: bytes
    first_line: int
    """0-based number in the file of the first line."""
    start: int = 0
    """Where in the text of the file it begins, in bytes."""
    stored_bytes: int
    """Bytes of the file, as stored, that had been read when this block was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where a block of a file lies, in bytes, and how many lines it has."""

    start: int
    stop: int
    num_lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The well-formed lines of a block as columns."""

    lines: NDArray[np.int64]
    """0-based numbers, in the file, of the well-formed lines."""
    batch: pa.RecordBatch
    """The wanted columns of those lines, as bytes."""
    widths: NDArray[np.int64]
    """How many columns each line of the block has, malformed or not."""


def stored_bytes(url: str, *, what: str) -> int:
    """Size of a file as stored; an InputError when there is none or nothing in it. `what` says what it should be."""
    size = store.size(url)
    if size is None:
        found = "this is a folder, not a file" if store.exists(url) else "there is no such file"
        raise InputError(f"{url}: {found}; expected {what}")
    if size == 0:
        raise InputError(f"{url}: the file is empty; expected {what}")
    return size


def _text(url: str, file: BinaryIO, head: bytes, what: str, threads: int) -> Generator[tuple[bytes, int], None, None]:
    """The text of a file in pieces, each with how far it reaches in the file as stored; by content, not by name."""
    pending = [head]

    def read_on(size: int) -> bytes:
        if pending:
            return pending.pop()
        with translated(url, "read"):
            return file.read(size)

    if HEADER.match(head):
        try:
            yield from unpack(read_on, threads=threads)
        except Bzip2Error as error:
            raise InputError(
                f"{url}: the bzip2 data is damaged or cut short near byte {error.position} ({error}); download it again"
            ) from error
        return
    if url.lower().endswith(".bz2"):
        raise InputError(
            f"{url}: not bzip2, though its name says so (it starts with {head[:8].hex(' ')}); download it again, "
            "or rename it if it is text"
        )
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise InputError(f"{url}: this is a {name} file; expected {what}, as text or bzip2")
    done = 0
    while piece := read_on(BLOCK_BYTES):
        done += len(piece)
        yield piece, done


def _whole_lines(
    pieces: Iterable[tuple[bytes, int]], url: str, what: str, block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """The text in pieces that end with a line feed; one is added to the last line if it has none."""
    pending: list[bytes] = []
    num_bytes = done = 0
    for piece, done in pieces:
        pending.append(piece)
        num_bytes += len(piece)
        if num_bytes < block_bytes:
            continue
        text = b"".join(pending)
        cut = text.rfind(b"\n") + 1
        if cut:
            yield text[:cut], done
        elif num_bytes > MAX_LINE_BYTES:
            raise InputError(f"{url}: a line has more than {MAX_LINE_BYTES} bytes; expected {what}")
        pending = [text[cut:]]
        num_bytes -= cut
    if rest := b"".join(pending):
        yield rest if rest.endswith(b"\n") else rest + b"\n", done


def cut_blocks(
    url: str, *, what: str, threads: int = 1, block_bytes: int | None = None
) -> Generator[Block, None, None]:
    """The file's lines, in order and as they are. `what` says in error messages what the file should be.

    `threads` unpack bzip2; blocks have about `block_bytes` (default: BLOCK_BYTES).
    """
    stored_bytes(url, what=what)
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        file: BinaryIO = filesystem.open(path, "rb")
        head = file.read(_HEAD_BYTES)
    with closing(file), closing(_text(url, file, head, what, threads)) as text:
        first_line = start = 0
        for data, done in _whole_lines(text, url, what, block_bytes or BLOCK_BYTES):
            if first_line == 0 and b"\0" in data[: 64 << 10]:
                raise InputError(f"{url}: binary data; expected {what}, as text or bzip2")
            yield Block(url=url, data=data, first_line=first_line, start=start, stored_bytes=done)
            first_line += data.count(b"\n")
            start += len(data)
        if first_line == 0:
            raise InputError(f"{url}: there is nothing in it; expected {what}")


def is_packed(url: str) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        with filesystem.open(path, "rb") as file:
            return HEADER.match(file.read(_HEAD_BYTES)) is not None


def cut_local(url: str, *, what: str) -> Iterator[Span]:
    """Where blocks of a plain text on a local disk lie; each ends with a line feed, but for the last perhaps."""
    buffer = bytearray(BLOCK_BYTES)
    with translated(url, "read"), Path(url.split("://", 1)[-1]).open("rb") as file:
        start = 0
        while num_read := file.readinto(buffer):
            stop = buffer.rfind(b"\n", 0, num_read) + 1 or num_read
            if stop == num_read and num_read == len(buffer) and not buffer.endswith(b"\n"):
                # A line longer than the block: look for its end in a larger one.
                if len(buffer) > MAX_LINE_BYTES:
                    raise InputError(f"{url}: a line has more than {MAX_LINE_BYTES} bytes; expected {what}")
                buffer = bytearray(2 * len(buffer))
                file.seek(start)
                continue
            num_lines = _count_lines(np.frombuffer(buffer, np.uint8, stop))
            yield Span(start=start, stop=start + stop, num_lines=num_lines)
            start += stop
            file.seek(start)


def _count_lines(text: NDArray[np.uint8]) -> int:
    """Line feeds, and one more for a last line without."""
    # In pieces that stay in the processor's cache: twice as fast as bytes.count.
    pieces = (text[start : start + _PIECE_BYTES] for start in range(0, len(text), _PIECE_BYTES))
    return sum(int(np.count_nonzero(piece == ord("\n"))) for piece in pieces) + int(text[-1] != ord("\n"))


def without_returns(data: bytes, *, is_first: bool) -> bytes:
    """Text saved on Windows as it would be elsewhere, line by line: b"a\\rb\\r\\n" -> b"a b\\n"."""
    if is_first:
        data = data.removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in data:  # a return inside a line must not become a line
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    return data


def read_blocks(url: str, *, what: str, threads: int = 1) -> Iterator[Block]:
    """The file's lines, in order, without a byte-order mark and carriage returns."""
    for block in cut_blocks(url, what=what, threads=threads):
        yield replace(block, data=without_returns(block.data, is_first=block.first_line == 0))


def split_columns(block: Block, names: Sequence[str], *, wanted: Sequence[str]) -> Columns:
    """Split a block's lines at tabs; lines with another number of columns than `names` are left out.

    Lines are counted here, not by the CSV reader: that takes the number of columns from the first
    line, and its report of a malformed line fails when the line is not UTF-8.
    """
    text = np.frombuffer(block.data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    tabs = np.flatnonzero(text == ord("\t"))
    widths = np.diff(np.searchsorted(tabs, ends), prepend=0) + 1
    is_good = widths == len(names)
    data = block.data
    if not is_good.all():
        lengths = np.diff(ends, prepend=-1)
        data = text[np.repeat(is_good, lengths)].tobytes()
    return Columns(
        lines=block.first_line + np.flatnonzero(is_good),
        batch=_parse(data, names, wanted),
        widths=widths,
    )


def _parse(data: bytes, names: Sequence[str], wanted: Sequence[str]) -> pa.RecordBatch:
    """Columns of lines that all have the right number of them."""
    schema = pa.schema([(name, pa.binary()) for name in wanted])
    if not data:
        return pa.RecordBatch.from_pylist([], schema=schema)
    if data.startswith(_BYTE_ORDER_MARK):
        data = _BYTE_ORDER_MARK + data  # Arrow drops one, also from the middle of a file
    table = csv.read_csv(
        pa.BufferReader(data),
        # One block, so that no line can straddle two.
        read_options=csv.ReadOptions(column_names=list(names), block_size=len(data) + 1, use_threads=False),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, escape_char=False, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            include_columns=list(wanted), column_types=schema, null_values=[], strings_can_be_null=False
        ),
    )
    (batch,) = table.combine_chunks().to_batches()
    return batch


def parse_integers(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Decimal numbers of 1 to 18 digits, and which values are: [b"12", b"-1", b""] -> [12, 0, 0], [True, False, False].

    Anything else is 0: Arrow's own conversion would also take signs and "0x1f".
    """
    text = column.view(pa.string())
    is_number = pc.and_(pc.ascii_is_decimal(text), pc.less_equal(pc.binary_length(text), MAX_DIGITS))
    digits = pc.if_else(is_number, text, "0")
    return (
        digits.cast(pa.int64()).to_numpy(zero_copy_only=False),
        is_number.to_numpy(zero_copy_only=False),
    )
