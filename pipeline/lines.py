"""Big tab-separated text files, plain or bzip2, wherever fsspec reads: blocks of whole lines, split into columns.

Memory is bounded by a block and the longest line. What columns mean, and whether a malformed line is
counted or ends the run, is the caller's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from pipeline import store
from pipeline.errors import InputError
from pipeline.store_faults import translated

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 64 << 20
"""A longer line means that the file is something else; YFCC100M's longest has 197,990 bytes."""

_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
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
    stored_bytes: int
    """Bytes of the file, as stored, that had been read when this block was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The well-formed lines of a block as columns."""

    lines: NDArray[np.int64]
    """0-based numbers, in the file, of the well-formed lines."""
    batch: pa.RecordBatch
    """The wanted columns of those lines, as bytes."""
    widths: NDArray[np.int64]
    """How many columns each line of the block has, malformed or not."""


class _Counted:
    """A file as stored: counts what is read, and lets no exception of a file system through but StoreError."""

    closed = False

    def __init__(self, url: str, file: BinaryIO, head: bytes) -> None:
        self._url, self._file, self._head = url, file, head
        self.stored_bytes = 0

    def read(self, size: int) -> bytes:
        with translated(self._url, "read"):
            data = self._head[:size] if self._head else self._file.read(size)
        self._head = self._head[len(data) :]
        self.stored_bytes += len(data)
        return data

    def close(self) -> None:
        self.closed = True


def stored_bytes(url: str, *, what: str) -> int:
    """Size of a file as stored; an InputError when there is none or nothing in it. `what` says what it should be."""
    size = store.size(url)
    if size is None:
        found = "this is a folder, not a file" if store.exists(url) else "there is no such file"
        raise InputError(f"{url}: {found}; expected {what}")
    if size == 0:
        raise InputError(f"{url}: the file is empty; expected {what}")
    return size


def _reader(url: str, file: _Counted, head: bytes, what: str) -> Callable[[int], bytes]:
    """A function reading the text of the file, by its first bytes and not by its name alone."""
    if _BZIP2.match(head):
        unpacked = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "bz2")

        def read(size: int) -> bytes:
            try:
                data: bytes = unpacked.read(size)
            except (OSError, pa.ArrowInvalid) as error:
                raise InputError(
                    f"{url}: the bzip2 data is damaged or cut short near byte {file.stored_bytes} ({error}); "
                    "download it again"
                ) from error
            return data

        return read
    if url.lower().endswith(".bz2"):
        raise InputError(
            f"{url}: not bzip2, though its name says so (it starts with {head[:8].hex(' ')}); download it again, "
            "or rename it if it is text"
        )
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise InputError(f"{url}: this is a {name} file; expected {what}, as text or bzip2")
    return file.read


def _whole_lines(read: Callable[[int], bytes], url: str, what: str) -> Iterator[bytes]:
    """The text in pieces that end with a line feed; one is added to the last line if it has none."""
    pending: list[bytes] = []
    while chunk := read(BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield b"".join([*pending, chunk[:cut]])
            pending = []
        pending.append(chunk[cut:])
        if sum(map(len, pending)) > MAX_LINE_BYTES:
            raise InputError(f"{url}: a line has more than {MAX_LINE_BYTES} bytes; expected {what}")
    if rest := b"".join(pending):
        yield rest + b"\n"


def read_blocks(url: str, *, what: str) -> Iterator[Block]:
    """The file's lines, in order. `what` says in error messages what the file should be."""
    stored_bytes(url, what=what)
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        opened: BinaryIO = filesystem.open(path, "rb")
        head = opened.read(64 << 10)
    with closing(opened):
        file = _Counted(url, opened, head)
        first_line = 0
        for data in _whole_lines(_reader(url, file, head, what), url, what):
            if first_line == 0:
                if b"\0" in data[: 64 << 10]:
                    raise InputError(f"{url}: binary data; expected {what}, as text or bzip2")
                data = data.removeprefix(b"\xef\xbb\xbf")
            if b"\r" in data:  # saved on Windows; a return inside a line must not become a line
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b" ")
            yield Block(url=url, data=data, first_line=first_line, stored_bytes=file.stored_bytes)
            first_line += data.count(b"\n")
        if first_line == 0:
            raise InputError(f"{url}: there is nothing in it; expected {what}")


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
    schema = pa.schema([(name, pa.binary()) for name in wanted])
    if not data:
        return pa.RecordBatch.from_pylist([], schema=schema)
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
    is_number = pc.and_(pc.ascii_is_decimal(text), pc.less_equal(pc.binary_length(text), 18))
    digits = pc.if_else(is_number, text, "0")
    return (
        digits.cast(pa.int64()).to_numpy(zero_copy_only=False),
        is_number.to_numpy(zero_copy_only=False),
    )
