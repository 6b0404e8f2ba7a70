"""The bytes of a ledger file: what one rank consumed in a run of consecutive steps.

In: sample ids, epochs and replacements of a step. Out: `Rows`, then a file's bytes; and back, as `Header` and
`Block`s. Where files lie and what they prove is said elsewhere. Little-endian throughout:

    header    8s magic, H version, I rank, I world size, Q global batch, q seed, 32s digest of the mix,
              Q first step, Q the step after the last
    blocks    each Q groups, Q ids, Q replaced samples, Q bytes that follow; then a zlib stream of the columns
              group: steps since the group before (the first: since the first step), epoch, number of ids;
              id: difference to the id before it in its group (the first: to 0);
              replaced: steps since the first, epoch, planned id, used id
    32s       sha256 of all before it

A group is the ids of one epoch in one step, sorted. A column holds its numbers seven bits at a time: one byte of each
number with the lowest bits (128 added where more follow), then one byte of each that has more, and so on. Bytes of
one kind stand together that way, and Huffman coding alone brings random 4096 of 15 million ids to 1.68 bytes each
(1.66 is the entropy of their differences; the bytes of each number side by side: 1.89) and the ids of 256 lanes to 0.6.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

Int64Array = npt.NDArray[np.int64]

_MAGIC = b"SLIPLEDG"
_VERSION = 1
_PREFIX = struct.Struct("<8sH")
_HEADER = struct.Struct("<8sHIIQq32sQQ")
_BLOCK = struct.Struct("<QQQQ")
_DIGEST_BYTES = 32
BLOCK_IDS = 1 << 16
"""Ids after which a block ends: what a reader unpacks at a time. Verifying is a fifth to a half slower with 2^20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Whose samples a file holds."""

    rank: int
    world_size: int
    digest: str
    """`Mix.digest`, 64 hex digits: what a sample id means."""
    seed: int
    global_batch: int
    first: int
    """The first step."""
    stop: int
    """The step after the last."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """One rank's rows of one step, packed."""

    step: int
    epochs: tuple[int, ...]
    """Of each group, ascending."""
    counts: tuple[int, ...]
    """Ids in each group."""
    planes: tuple[bytes, ...]
    """The column of ids."""
    replaced: tuple[tuple[int, int, int], ...]
    """(epoch, planned id, used id) of damaged samples, in the order of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The rows of some consecutive steps: G groups with N ids in all, R replaced samples."""

    steps: Int64Array
    """Step of each group (G), ascending."""
    epochs: Int64Array
    """Epoch of each group (G)."""
    counts: Int64Array
    """Ids in each group (G)."""
    ids: Int64Array
    """Planned sample ids (N), group after group, sorted within a group."""
    replaced: Int64Array
    """Step, epoch, planned id, used id of each damaged sample (R, 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFile:
    """A ledger file whose bytes have been checked."""

    header: Header
    url: str
    body: bytes

    def blocks(self) -> Iterator[Block]:
        """Its rows, some 65,000 ids at a time."""
        at = 0
        while at < len(self.body):
            groups, ids, replaced, num_bytes = _BLOCK.unpack_from(self.body, at)
            at += _BLOCK.size
            yield _unpack_block(self.body[at : at + num_bytes], groups, ids, replaced, self.header.first)
            at += num_bytes


def _planes(numbers: Int64Array) -> list[bytes]:
    """A column's bytes, seven bits of each number at a time: [5, 300] -> [b"\\x05\\xac", b"\\x02"]."""
    planes = []
    rest = numbers.astype(np.uint64)
    while rest.size:
        high = rest >> np.uint64(7)
        more = high != 0
        planes.append(((rest & np.uint64(127)).astype(np.uint8) | (more.view(np.uint8) << np.uint8(7))).tobytes())
        rest = high[more]
    return planes


def _column(data: bytes, at: int, count: int) -> tuple[Int64Array, int]:
    """The `count` numbers of the column that begins at byte `at`, and where the next one begins."""
    numbers = np.zeros(count, dtype=np.int64)
    where = np.arange(count)
    shift = 0
    while where.size:
        plane = np.frombuffer(data, dtype=np.uint8, count=where.size, offset=at)
        at += plane.size
        numbers[where] |= (plane & 127).astype(np.int64) << shift
        where, shift = where[plane > 127], shift + 7
    return numbers, at


def pack_rows(step: int, planned: Int64Array, used: Int64Array, epochs: Int64Array) -> Rows:
    """Pack one rank's rows of a step: planned ids, ids really used, epoch of each, all of the same length."""
    if not planned.shape == used.shape == epochs.shape or planned.ndim != 1:
        raise ValueError(
            f"step {step}: planned, used, epochs have shapes {planned.shape}, {used.shape}, {epochs.shape}"
        )
    if planned.size and min(planned.min(), used.min(), epochs.min()) < 0:
        raise ValueError(f"step {step}: a sample id or an epoch is negative")
    # Nearly every batch lies in one epoch, and telling so takes a tenth of the time of finding the distinct ones.
    if planned.size and (epochs == epochs[0]).all():
        groups = {int(epochs[0]): np.sort(planned)}
    else:
        groups = {int(epoch): np.sort(planned[epochs == epoch]) for epoch in np.unique(epochs)}
    gaps = [np.diff(ids, prepend=0) for ids in groups.values()]
    other = np.flatnonzero(planned != used)
    return Rows(
        step=step,
        epochs=tuple(groups),
        counts=tuple(len(ids) for ids in groups.values()),
        planes=tuple(_planes(np.concatenate(gaps))) if gaps else (),
        replaced=tuple((int(epochs[i]), int(planned[i]), int(used[i])) for i in other),
    )


def _pack_block(rows: Sequence[Rows], first: int) -> bytes:
    steps = [row.step for row in rows for _ in row.epochs]
    epochs = [epoch for row in rows for epoch in row.epochs]
    counts = [count for row in rows for count in row.counts]
    replaced = np.array([(row.step - first, *one) for row in rows for one in row.replaced], dtype=np.int64)
    columns = [np.diff(np.asarray(steps, dtype=np.int64), prepend=first), np.asarray(epochs), np.asarray(counts)]
    planes = [plane for column in columns for plane in _planes(column)]
    # Laid end to end, plane by plane, the columns of single steps are the column of all.
    for number in range(max((len(row.planes) for row in rows), default=0)):
        planes += [row.planes[number] for row in rows if len(row.planes) > number]
    planes += [plane for column in replaced.reshape(-1, 4).T for plane in _planes(column)]
    # Differences repeat nothing: searching for repetitions takes three times as long and saves no byte.
    coder = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    packed = coder.compress(b"".join(planes)) + coder.flush()
    return _BLOCK.pack(len(steps), sum(counts), len(replaced), len(packed)) + packed


def _unpack_block(packed: bytes, groups: int, num_ids: int, replaced: int, first: int) -> Block:
    data = zlib.decompress(packed)
    columns, at = [], 0
    for length in (groups, groups, groups, num_ids, replaced, replaced, replaced, replaced):
        column, at = _column(data, at, length)
        columns.append(column)
    since, epochs, counts, gaps = columns[:4]
    sums = np.cumsum(gaps)
    starts = np.cumsum(counts) - counts
    before = np.where(starts > 0, sums[starts - 1], 0)
    columns[4] += first
    return Block(
        steps=first + np.cumsum(since),
        epochs=epochs,
        counts=counts,
        ids=sums - np.repeat(before, counts),
        replaced=np.stack(columns[4:], axis=1),
    )


def _blocks_of(rows: Sequence[Rows]) -> Iterator[Sequence[Rows]]:
    """Cut the steps of a file into blocks."""
    begin = ids = 0
    for end, row in enumerate(rows, start=1):
        ids += sum(row.counts)
        if ids >= BLOCK_IDS or end == len(rows):
            yield rows[begin:end]
            begin, ids = end, 0


def encode(header: Header, rows: Sequence[Rows]) -> bytes:
    """The bytes of a ledger file; `rows` has one entry for every step from `header.first` to `header.stop` - 1."""
    head = _HEADER.pack(
        *(_MAGIC, _VERSION, header.rank, header.world_size, header.global_batch, header.seed),
        *(bytes.fromhex(header.digest), header.first, header.stop),
    )
    data = b"".join([head, *(_pack_block(block, header.first) for block in _blocks_of(rows))])
    return data + hashlib.sha256(data).digest()


def decode(data: bytes, url: str) -> LedgerFile:
    """Check a ledger file's bytes; InputError names `url` when they are damaged or something else."""
    if len(data) < _PREFIX.size or not data.startswith(_MAGIC):
        raise InputError(f"{url}: not a ledger file: its {len(data)} bytes begin with {data[:8]!r}, not {_MAGIC!r}")
    version = _PREFIX.unpack_from(data)[1]
    if version > _VERSION:
        raise InputError(f"{url}: ledger version {version}, this program knows {_VERSION}; update yfcc15m-slip")
    found, expected = hashlib.sha256(data[:-_DIGEST_BYTES]).digest(), data[-_DIGEST_BYTES:]
    if found != expected or len(data) < _HEADER.size + _DIGEST_BYTES:
        raise InputError(
            f"{url}: damaged: the sha256 of its {len(data)} bytes begins with {found.hex()[:16]}, the one in it with "
            f"{expected.hex()[:16]}; restore the file, or go on from a checkpoint at or before its first step"
        )
    _, _, rank, world_size, global_batch, seed, digest, first, stop = _HEADER.unpack_from(data)
    header = Header(
        rank=rank,
        world_size=world_size,
        digest=digest.hex(),
        seed=seed,
        global_batch=global_batch,
        first=first,
        stop=stop,
    )
    return LedgerFile(header=header, url=url, body=data[_HEADER.size : -_DIGEST_BYTES])
