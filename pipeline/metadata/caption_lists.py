"""Rows of other published lists of pictures and captions: CC3M, CC12M, RedCaps, and DeCLIP's list of YFCC15M.

CC3M is lines of caption, tab, URL (ai.google.com/research/ConceptualCaptions); CC12M of URL, tab, caption
(github.com/google-research-datasets/conceptual-12m); RedCaps one JSON document per subreddit and year with a list
"annotations" (redcaps.xyz); DeCLIP's list lines of JSON (github.com/Sense-GVT/DeCLIP). Texts are strings, not
percent-encoded. The caption becomes the description.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pipeline import store
from pipeline.errors import InputError
from pipeline.metadata.lines import Block
from pipeline.metadata.local_table import is_key
from pipeline.metadata.rows import Chunk, Form, Rows, Wanted, cheap_batch, chosen, empty_texts, whole_batch
from pipeline.metadata.text import chunk_text
from pipeline.store_faults import translated

WHAT: dict[str, str] = {
    "cc3m": "CC3M's list (caption and URL, separated by a tab)",
    "cc12m": "CC12M's list (URL and caption, separated by a tab)",
    "redcaps": 'RedCaps\' annotations (one JSON document with a list "annotations")',
    "declip": "DeCLIP's list (lines of JSON with filename, url and caption)",
}

_JUDGED = 1000
"""So many first lines decide whether a file is the list with faults, or something else."""
_PHOTO = re.compile(r"/(\d{1,18})_[0-9a-z]+(?:_[0-9a-z]+)?\.\w+$", re.ASCII)
_READ_CHARACTERS = 1 << 20
_MAX_VALUE_CHARACTERS = 16 << 20
_CHUNK_CHARACTERS = 4 << 20
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class _Row:
    url: str
    caption: str
    photo_id: int = -1
    key: str = ""
    user: str = ""
    date_taken: str = ""
    page_url: str = ""


def _is_web(text: object) -> bool:
    return isinstance(text, str) and text.startswith(("http://", "https://"))


def photo_id_of(url: str) -> int:
    """The photo id in the URL of one of Flickr's pictures, -1 when there is none:
    "http://farm1.staticflickr.com/32/357_a592e0.jpg" -> 357."""
    found = _PHOTO.search(url)
    return int(found[1]) if found else -1


def _text(value: object) -> str:
    """A JSON value as text that can be stored: halves of surrogate pairs become "?", None becomes ""."""
    if value is None:
        return ""
    return str(value).encode("utf-8", errors="replace").decode("utf-8")


def _of_cc3m(line: str) -> _Row | None:
    fields = line.split("\t")
    return _Row(fields[1].strip(), fields[0]) if len(fields) == 2 and _is_web(fields[1]) else None


def _of_cc12m(line: str) -> _Row | None:
    fields = line.split("\t")
    return _Row(fields[0].strip(), fields[1]) if len(fields) == 2 and _is_web(fields[0]) else None


def _json(line: str) -> dict[str, Any] | None:
    """The JSON object in a line with url and caption; None when it is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not _is_web(found.get("url")) or not isinstance(found.get("caption"), str):
        return None
    return found


def _of_declip(line: str) -> _Row | None:
    found = _json(line)
    if found is None:
        return None
    return _Row(_text(found["url"]), _text(found["caption"]), photo_id=photo_id_of(found["url"]))


def _of_redcaps(line: str) -> _Row | None:
    found = _json(line)
    if found is None:
        return None
    created, permalink = found.get("created_utc"), _text(found.get("permalink"))
    seconds = created if isinstance(created, int | float) and 0 <= created < 1 << 34 else None
    return _Row(
        _text(found["url"]),
        _text(found["caption"]),
        key=_text(found.get("image_id")),
        user=_text(found.get("author")),
        date_taken="" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}",
        page_url=f"https://www.reddit.com{permalink}" if permalink.startswith("/") else permalink,
    )


_PARSERS: dict[Form, Callable[[str], _Row | None]] = {
    "cc3m": _of_cc3m,
    "cc12m": _of_cc12m,
    "declip": _of_declip,
    "redcaps": _of_redcaps,
}


def check_list(block: Block, form: Form) -> None:
    """Raise unless most of a file's first lines are what they should be."""
    lines = block.data.decode("utf-8", errors="replace").removesuffix("\n").split("\n")[:_JUDGED]
    wrong = [number for number, line in enumerate(lines) if _PARSERS[form](line.rstrip("\r")) is None]
    if len(wrong) <= len(lines) / 2:
        return
    others: tuple[Form, ...] = ("cc3m", "cc12m")
    for other in others:
        if sum(_PARSERS[other](line.rstrip("\r")) is not None for line in lines) > len(lines) / 2:
            raise InputError(
                f"{block.url}: this is not {WHAT[form]}, it looks like {WHAT[other]}; pass --dataset {other}"
            )
    raise InputError(
        f"{block.url}: {len(wrong)} of the first {len(lines)} lines are not of {WHAT[form]}; line {wrong[0] + 1} "
        f"begins with {lines[wrong[0]][:80]!r}"
    )


class _Json:
    """A JSON document read in pieces; never more of it in memory than its longest value."""

    def __init__(self, url: str, file: BinaryIO) -> None:
        self._url, self._file = url, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._parser = json.JSONDecoder()
        self._text, self._at, self._is_whole = "", 0, False
        self.done_bytes = 0

    def _grow(self) -> bool:
        with translated(self._url, "read"):
            piece = self._file.read(_READ_CHARACTERS)
        self.done_bytes += len(piece)
        self._is_whole = not piece
        self._text = self._text[self._at :] + self._decoder.decode(piece, final=self._is_whole)
        self._at = 0
        return not self._is_whole

    def fail(self, what: str) -> InputError:
        """The error to raise for what is found here."""
        return InputError(
            f"{self._url}: {what} near byte {self.done_bytes - len(self._text) + self._at}; expected "
            f"{WHAT['redcaps']}; download it again"
        )

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        """Pass one character that must come next."""
        if self.peek() != character:
            raise self.fail(f"{self.peek()!r} instead of {character!r}")
        self._at += 1

    def value(self) -> tuple[Any, str]:
        """The next value, and as it is written."""
        self.peek()
        while True:
            try:
                found, end = self._parser.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > _MAX_VALUE_CHARACTERS or not self._grow():
                    raise self.fail(f"damaged or cut short ({error})") from error
                continue
            # A number may go on in the next piece.
            if end < len(self._text) or self._is_whole or not self._grow():
                written, self._at = self._text[self._at : end], end
                return found, written


def _annotations(document: _Json) -> Iterator[str]:
    """Each annotation of a RedCaps document, as it is written."""
    document.skip("{")
    has_annotations = False
    while document.peek() != "}":
        name, _ = document.value()
        document.skip(":")
        if name != "annotations":
            document.value()
        else:
            has_annotations = True
            document.skip("[")
            while document.peek() != "]":
                yield document.value()[1]
                if document.peek() != "]":
                    document.skip(",")
            document.skip("]")
        if document.peek() != "}":
            document.skip(",")
    document.skip("}")
    if not has_annotations:
        raise document.fail("a document without annotations")


def redcaps_chunks(url: str, *, first_row: int, bytes_before: int) -> Iterator[Chunk]:
    """The annotations of one document, a line of JSON each."""
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        file: BinaryIO = filesystem.open(path, "rb")
    lines: list[str] = []
    size = 0

    def chunk() -> Chunk:
        # JSON has line feeds only between values, where a space does as well.
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
        done = bytes_before + document.done_bytes
        return Chunk(url=url, form="redcaps", first_row=first_row, num_rows=len(lines), done_bytes=done, data=data)

    with closing(file):
        document = _Json(url, file)
        for written in _annotations(document):
            lines.append(written.replace("\n", " ").replace("\r", " "))
            size += len(written)
            if size >= _CHUNK_CHARACTERS:
                yield chunk()
                first_row, lines, size = first_row + len(lines), [], 0
    if lines:
        yield chunk()


def read_list(chunk: Chunk, wanted: Wanted | None) -> Rows:
    """The rows of a chunk; their key is the photo id, the list's own, or the row's number with 9 digits."""
    parse = _PARSERS[chunk.form]
    lines = chunk_text(chunk).decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    if len(lines) != chunk.num_rows:
        raise InputError(f"{chunk.url}: changed while it was read; start again when it is complete")
    found = [(chunk.first_row + number, row) for number, line in enumerate(lines) if (row := parse(line)) is not None]
    rows = [row for _, row in found]
    cheap = cheap_batch(
        row=np.array([position for position, _ in found], np.int64),
        line=None,
        photo_id=np.array([row.photo_id for row in rows], np.int64),
        bucket_key=empty_texts(len(rows), pa.string()),
        is_video=None,
    )
    taken = chosen(cheap, wanted)
    kept = [found[index] for index in taken.tolist()]
    texts: dict[str, list[str]] = {
        "key": [_key(position, row) for position, row in kept],
        "url": [row.url for _, row in kept],
        "description": [row.caption for _, row in kept],
        "user": [row.user for _, row in kept],
        "date_taken": [row.date_taken for _, row in kept],
        "page_url": [row.page_url for _, row in kept],
    }
    arrays = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    return Rows(
        batch=whole_batch(cheap.take(pa.array(taken)), arrays, is_encoded=False),
        num_malformed=chunk.num_rows - len(rows),
        num_unwanted=len(rows) - len(kept),
        is_encoded=False,
    )


def _key(position: int, row: _Row) -> str:
    if row.photo_id >= 0:
        return ""
    return row.key if is_key(row.key) else f"{position:09d}"
