"""The index of one shard: where each sample lies in its tar, and the digest of its bytes.

In: the bytes of an index (Parquet, one row per sample in the order of the tar). Out: a `ShardIndex`, small enough to
keep many and not changed by anyone, so that threads may share it. The layout is checked as strictly as a manifest is.
Finding the index and comparing its own digest is `pipeline.manifest`'s part, through which other packages use this
module. Columns for people: manifests/README.md.
"""

from __future__ import annotations

import binascii
import hashlib
import io
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ShardError

TAR_BLOCK_BYTES = 512
DIGEST_BYTES = 32

INDEX_CURE = "rebuild the shard, or run slip index again if that made its index"
"""What to do about a damaged index; ends every message of `parse_index`."""

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),  # of the sample's first tar header
        ("size", pa.int64()),  # bytes from there to the end of its last member, padding included
        ("image_ext", pa.string()),  # "jpg", "png" or "webp"; any picture's extension in indexed tars of others
        ("image_offset", pa.int64()),  # of the picture's first byte
        ("image_size", pa.int64()),
        ("txt_offset", pa.int64()),
        ("txt_size", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("sha256", pa.string()),  # hex, of the shard's bytes [offset, offset + size)
        ("crc32", pa.uint32()),  # of the same bytes (ISO 3309, as in zlib): three to five times as fast to compare
        # For people and for rebuilding a damaged shard; training does not read what follows.
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image_sha256", pa.string()),  # hex, of the picture's bytes
        ("title", pa.string()),
        ("description", pa.string()),
        ("title_usable", pa.bool_()),
        ("description_usable", pa.bool_()),
        ("user", pa.string()),
        ("date_taken", pa.string()),
        ("page_url", pa.string()),
        ("license", pa.string()),
        ("license_url", pa.string()),
        ("url", pa.string()),
    ]
)
"""One row per sample of a shard, in the order of the tar."""

_NOTES_KEY = b"slip.index"
# Few different values: the others would only make the dictionary larger than the column.
_REPEATING_COLUMNS = ["image_ext", "user", "license", "license_url", "date_taken"]

_PLACES = ("offset", "size", "image_offset", "image_size", "txt_offset", "txt_size", "json_offset", "json_size")
_MEMBERS = ("image", "txt", "json")
_MOST_MEMBER_BYTES = 2**32 - 1

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardIndex:
    """Where each of the n samples of one shard lies; row i is sample i of the tar. About 75 bytes a sample.

    The arrays have shape (n,), cannot be written to, and count bytes of the tar.
    """

    keys: pa.StringArray
    crc32: UInt32Array | None
    """Of the shard's bytes [offset, offset + size); None in indexes of programs that did not write it."""
    sha256: ByteArray | None
    """Shape (n, 32): digests of the same bytes; only read where there is no crc32."""
    offset: Int64Array
    size: Int64Array
    image_offset: Int64Array
    image_size: UInt32Array
    txt_offset: Int64Array
    txt_size: UInt32Array
    json_offset: Int64Array
    json_size: UInt32Array

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """Name of one sample."""
        name: str = self.keys[row].as_py()
        return name

    def damage(self, row: int, data: bytes | memoryview) -> str:
        """What tells that `data` is not what was sealed as this sample; "" when it is.

        A changed bit, or up to 32 neighbouring ones, never has the same CRC-32; anything else has it one time in 2**32.
        """
        if self.crc32 is not None:
            found, expected = zlib.crc32(data), int(self.crc32[row])
            if found == expected:
                return ""
            return f"crc32 of its {len(data)} bytes is {found:08x}, the index says {expected:08x}"
        assert self.sha256 is not None
        digest, sealed = hashlib.sha256(data).digest(), self.sha256[row].tobytes()
        if digest == sealed:
            return ""
        return f"sha256 of its {len(data)} bytes is {digest.hex()}, the index says {sealed.hex()}"


def index_bytes(index: pa.Table, notes: str = "") -> bytes:
    """An index as Parquet, with what its maker wants to remember of the tar."""
    sink = io.BytesIO()
    # The Arrow schema only repeats the columns, but without it the notes are not written.
    pq.write_table(
        index.replace_schema_metadata({_NOTES_KEY: notes} if notes else None),
        sink,
        compression="zstd",
        store_schema=bool(notes),
        use_dictionary=_REPEATING_COLUMNS,
    )
    return sink.getvalue()


def index_notes(data: bytes, url: str) -> str:
    """What the maker of the index at `url` noted, "" when nothing."""
    try:
        found: bytes = (pq.read_metadata(pa.BufferReader(data)).metadata or {}).get(_NOTES_KEY, b"")
        return found.decode()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ShardError(f"{url}: not an index ({error}); {INDEX_CURE}") from error


def _are_unique(keys: pa.StringArray) -> bool:
    """Whether no key occurs twice; sealed shards are sorted by key, which is seen fifteen times as fast."""
    if pc.all(pc.less(keys[:-1], keys[1:])).as_py() is not False:
        return True
    num_different: int = pc.count_distinct(keys).as_py()
    return num_different == len(keys)


def _layout_faults(places: dict[str, Int64Array], keys: pa.StringArray, num_bytes: int) -> list[str]:
    """What contradicts that samples follow each other inside the shard and members lie inside their sample."""
    offset, end = places["offset"], places["offset"] + places["size"]
    members_inside, sizes_fit = np.ones((2, len(keys)), dtype=bool)
    for member in _MEMBERS:
        start, size = places[f"{member}_offset"], places[f"{member}_size"]
        members_inside &= (start >= offset + TAR_BLOCK_BYTES) & (size >= 0) & (start + size <= end)
        sizes_fit &= size <= _MOST_MEMBER_BYTES
    faults = {
        "offsets do not increase": bool((offset[1:] < end[:-1]).any()) or bool((offset < 0).any()),
        "a sample has no bytes": bool((places["size"] <= 0).any()),
        f"samples end at byte {int(end.max())}, the shard has {num_bytes}": bool(end.max() > num_bytes),
        "a member lies outside its sample": not members_inside.all(),
        "a member has 4 GiB or more": not sizes_fit.all(),
        "a key occurs twice": not _are_unique(keys),
    }
    return [fault for fault, present in faults.items() if present]


def _digests(column: pa.StringArray) -> ByteArray | None:
    """n texts of 64 hex digits as (n, 32) bytes; None when one is anything else."""
    if not pc.all(pc.equal(pc.binary_length(column), 2 * DIGEST_BYTES)).as_py():
        return None
    start = column.offset  # cells of equal length: cell i begins at 64 i of the whole buffer
    first = int(np.frombuffer(column.buffers()[1], dtype=np.int32)[start])
    text = memoryview(column.buffers()[2])[first : first + 2 * DIGEST_BYTES * len(column)]
    try:
        return np.frombuffer(binascii.unhexlify(text), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    except binascii.Error:
        return None


def _read_columns(data: bytes) -> pa.Table:
    """The columns training needs, as `INDEX_SCHEMA` says."""
    # One thread: the columns of one shard are small, and readers have their own threads.
    file = pq.ParquetFile(pa.BufferReader(data))
    digest = "crc32" if "crc32" in file.schema_arrow.names else "sha256"
    names = ["key", digest, *_PLACES]
    table = file.read(columns=names, use_threads=False)
    wanted = pa.schema([INDEX_SCHEMA.field(name) for name in names])
    return table.select(wanted.names).cast(wanted).combine_chunks()


def parse_index(data: bytes, *, url: str, shard: str, num_samples: int, num_bytes: int) -> ShardIndex:
    """Read and check the index at `url` of a tar called `shard` with `num_samples` samples in `num_bytes` bytes.

    ShardError when it is not an index, has another number of samples, or contradicts itself.
    """
    try:
        table = _read_columns(data)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ShardError(f"{url}: not an index ({error}); {INDEX_CURE}") from error
    if table.num_rows != num_samples or table.num_rows == 0:
        raise ShardError(f"{url}: {table.num_rows} samples, the manifest says {num_samples}; {INDEX_CURE}")
    if empty := [name for name in table.column_names if table.column(name).null_count]:
        raise ShardError(f"{url}: column {', '.join(empty)} has empty cells; {INDEX_CURE}")
    places = {name: table.column(name).to_numpy() for name in _PLACES}
    keys = table.column("key").chunk(0)
    faults = _layout_faults(places, keys, num_bytes)
    checksums = table.column("crc32").to_numpy() if "crc32" in table.column_names else None
    digests = None if checksums is not None else _digests(table.column("sha256").chunk(0))
    if checksums is None and digests is None:
        faults.append("a sha256 is not 64 hex digits")
    if faults:
        raise ShardError(f"{url}: the index of {shard} is damaged: {'; '.join(faults)}; {INDEX_CURE}")
    arrays = {name: places[name].astype(np.uint32) if name.endswith("_size") else places[name] for name in _PLACES}
    for array in (*arrays.values(), *([] if checksums is None else [checksums])):
        array.setflags(write=False)
    return ShardIndex(keys=keys, crc32=checksums, sha256=digests, **arrays)
