"""The index of one WebDataset tar, made by reading it once from begin to end.

In: a stream of a tar whose samples are members that follow each other and share their key, as webdataset groups them
(`base_plus_ext` and `group_by_keys` of webdataset/tariterators.py): the key is the path up to the first dot of the base
name, what follows is the extension, in lower case. Out: rows of `INDEX_SCHEMA` for the samples with a picture and a
caption, and how many were rejected for which reason. No pixel is decoded; of pictures the header is read.
"""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
from PIL import Image

from pipeline.manifest import INDEX_SCHEMA
from slip.data.decode import MAX_PIXELS
from slip.data.tar_members import Member, TarStream, Watch

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Which member is the picture, the first of these that a sample has."""
CAPTION_EXTENSIONS = ("txt", "text", "caption")
MAX_MEMBER_BYTES = 1 << 30
"""Larger members would not fit in memory beside each other; their samples are rejected."""

_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")  # members that describe the tar
# What Pillow's readers raise on broken headers.
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedTar:
    """What one pass over a tar found out."""

    index: pa.Table
    """`INDEX_SCHEMA`, a row for every sample that was kept."""
    rejected: dict[str, int]
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """A picture's place, and what its header says; ext "" and a reason when it cannot be used."""

    offset: int
    size: int
    sha256: str
    ext: str
    width: int
    height: int
    reason: str


class _Digests:
    """sha256 and CRC-32 of bytes that come in pieces."""

    def __init__(self) -> None:
        self.sha256, self.crc32 = hashlib.sha256(), 0

    def update(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def copy(self) -> _Digests:
        other = _Digests()
        other.sha256, other.crc32 = self.sha256.copy(), self.crc32
        return other


@dataclass(slots=True, kw_only=True)
class _Sample:
    """The members of one key, as they come."""

    key: str
    offset: int
    end: int
    digest: _Digests
    """Of the tar's bytes [offset, end)."""
    after: _Digests | None = None
    """The digest going on over what follows `end`, when that is no member of a sample but may stand within one."""
    extensions: set[str] = field(default_factory=set)
    pictures: dict[str, _Picture] = field(default_factory=dict)
    """By the member's extension."""
    captions: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    """By extension: offset, size, whether there is any text."""
    reason: str = ""
    """Why it is rejected, as far as that is known before its last member."""


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member: "a/b.x.JPG" -> ("a/b", "x.jpg"); None when it belongs to no sample."""
    match = _NAME.fullmatch(name)
    return None if match is None or _META.match(name) else (match[1], match[2].lower())


def _look_at(picture: memoryview, offset: int) -> _Picture:
    """Read a picture's header."""
    ext, width, height, reason = "", 0, 0, ""
    try:
        with Image.open(io.BytesIO(picture), formats=tuple(_FORMATS)) as image:
            ext, (width, height) = _FORMATS[image.format or ""], image.size
            if width * height > MAX_PIXELS:
                reason = "bomb"
    except Image.DecompressionBombError:
        reason = "bomb"
    except _HEADER_ERRORS:
        reason = "not_an_image"
    digest = hashlib.sha256(picture).hexdigest()
    return _Picture(offset=offset, size=len(picture), sha256=digest, ext=ext, width=width, height=height, reason=reason)


def _is_utf8(name: str) -> bool:
    """Whether a name has no bytes that are not UTF-8, which an index could not hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Indexer:
    """Gathers the rows of one tar."""

    def __init__(self, tar: TarStream) -> None:
        self._tar = tar
        self._sample: _Sample | None = None
        self._keys: set[str] = set()
        self.rows: list[tuple[Any, ...]] = []
        self.rejected: Counter[str] = Counter()

    def add(self, member: Member) -> None:
        """Take one member in, its content included."""
        name = split_name(member.name) if member.is_file else None
        if name is None:
            self._pass_by(member)
            return
        key, ext = name
        sample = self._sample
        if sample is None or sample.key != key:
            self.finish_sample()
            sample = _Sample(key=key, offset=member.start, end=member.end, digest=_Digests())
            self._sample = sample
            if not _is_utf8(key):
                sample.reason = "name_not_utf8"
        elif sample.after is not None:
            sample.digest, sample.after = sample.after, None
        if ext in sample.extensions:
            sample.reason = sample.reason or "duplicate_member"
        sample.extensions.add(ext)
        sample.digest.update(member.headers)
        self._take_content(sample, member, ext)
        sample.end = member.end

    def _take_content(self, sample: _Sample, member: Member, ext: str) -> None:
        if member.size > MAX_MEMBER_BYTES:
            sample.reason = sample.reason or "member_too_large"
        if sample.reason or ext not in (*IMAGE_EXTENSIONS, *CAPTION_EXTENSIONS):
            for piece in self._tar.pieces(member):
                sample.digest.update(piece)
            return
        whole = self._tar.read(member)
        sample.digest.update(whole)
        content = whole[: member.size]
        if ext in IMAGE_EXTENSIONS:
            sample.pictures[ext] = _look_at(content, member.offset)
        else:
            has_text = bool(bytes(content).decode("utf-8", "replace").strip())
            sample.captions[ext] = (member.offset, member.size, has_text)

    def _pass_by(self, member: Member) -> None:
        """A member of no sample; when the sample before goes on behind it, its bytes lie within that one's."""
        if self._sample is None:
            return
        if self._sample.after is None:
            self._sample.after = self._sample.digest.copy()
        self._sample.after.update(member.headers)
        for piece in self._tar.pieces(member):
            self._sample.after.update(piece)

    def finish_sample(self) -> None:
        """Make a row of the sample that came last, or count it as rejected."""
        sample, self._sample = self._sample, None
        if sample is None:
            return
        picture = next((sample.pictures[ext] for ext in IMAGE_EXTENSIONS if ext in sample.pictures), None)
        caption = next((sample.captions[ext] for ext in CAPTION_EXTENSIONS if ext in sample.captions), None)
        reason = sample.reason
        if not reason and picture is None:
            reason = "no_image"
        elif not reason and picture is not None and picture.reason:
            reason = picture.reason
        elif not reason and (caption is None or not caption[2]):
            reason = "no_caption"
        elif not reason and sample.key in self._keys:
            reason = "duplicate_key"
        if reason or picture is None or caption is None:
            self.rejected[reason] += 1
            return
        self._keys.add(sample.key)
        place = (sample.offset, sample.end - sample.offset, picture.offset, picture.size, *caption[:2])
        digests = (sample.digest.sha256.hexdigest(), sample.digest.crc32, picture.sha256)
        self.rows.append((sample.key, picture.ext, *place, *digests, picture.width, picture.height))

    def table(self) -> pa.Table:
        """The rows as `INDEX_SCHEMA`. Of a .json of others nothing is known: it counts as empty, texts as unknown."""
        names = "key image_ext offset size image_offset image_size txt_offset txt_size "
        names += "sha256 crc32 image_sha256 width height"
        columns = dict(zip(names.split(), zip(*self.rows, strict=True), strict=False)) if self.rows else {}
        columns["json_offset"] = columns.get("image_offset", ())
        blank = {pa.string(): "", pa.bool_(): False, pa.int64(): 0, pa.int32(): 0, pa.uint32(): 0}
        for column in INDEX_SCHEMA:
            columns.setdefault(column.name, (blank[column.type],) * len(self.rows))
        return pa.table({name: columns[name] for name in INDEX_SCHEMA.names}, schema=INDEX_SCHEMA)


def index_tar(stream: BinaryIO, url: str, watch: Watch | None = None) -> IndexedTar:
    """Read a tar to its end and say where its samples are; DamagedTarError when it is not whole."""
    tar = TarStream(stream, url, watch)
    indexer = _Indexer(tar)
    for member in tar.members():
        indexer.add(member)
    indexer.finish_sample()
    return IndexedTar(
        index=indexer.table(),
        rejected=dict(sorted(indexer.rejected.items())),
        num_bytes=tar.num_bytes,
        sha256=tar.sha256,
    )
