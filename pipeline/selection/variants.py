"""Which rows of metadata a variant takes, and as what: chunks in, verdicts and finished rows out.

A `Judge` runs in many processes at once and knows nothing of rows before its chunk; that some photo came before is for
`selection` to say, which sees all verdicts in order.

- openai: the rows OpenAI's list names, joined by line, photo id or key; what else both sides have must agree.
- declip: the rows DeCLIP's list names by photo id; its caption is the description, there is no title.
- english: photographs of whose chosen texts one is natural language in English; there is no list.
- all: every row (other data sets; DeCLIP's list without metadata).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.captions.columns import decode_column, text_column
from pipeline.captions.verdicts import (
    CODE_OF,
    KEPT,
    Codes,
    Mask,
    Verdicts,
    clean_verdicts,
    english_verdicts,
    paper_verdicts,
)
from pipeline.config import BuildConfig
from pipeline.metadata.metadata import Chunk, read_chunk
from pipeline.records import SELECTION_SCHEMA, Reason
from pipeline.selection.listed_captions import ListedCaptions
from pipeline.selection.subset_list import SubsetList, load_array, search

Ids = NDArray[np.int64]

_OF_ONE = ("user", "date_taken", "page_url")
_OF_MANY = ("license", "license_url")
"""Attribution: what differs from row to row, and what has few values."""
_SHOWN_PER_CHUNK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of a chunk's rows, but for repetitions."""

    num_rows: int
    done_bytes: int
    counts: Counter[Reason]
    """Rows rejected for a reason that holds whatever came before."""
    ids: Ids
    """Of the other rows, in order: the photo id, or a number made from the key, below zero."""
    codes: Codes
    """Why those are rejected, unless they are repetitions; `KEPT` if they are not."""
    kept: pa.RecordBatch
    """SELECTION_SCHEMA; the rows with the code `KEPT`, in order."""
    mismatches: tuple[str, ...]
    """A few rows that contradict the list."""
    first: tuple[int, int] | None
    """Line and photo id of the first well-formed row."""
    lost: tuple[NDArray[np.int64], ...]
    """For each scored list, how many of its photos got which code."""


@dataclass(slots=True)
class _Sieve:
    """Decides by a chunk's numbers, before its texts are read, which rows are candidates, and remembers why not."""

    judge: Judge
    counts: Counter[Reason] = field(default_factory=Counter)
    mismatches: tuple[str, ...] = ()
    first: tuple[int, int] | None = None
    photo_ids: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    is_video: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    entries: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of the candidates: photo ids, whether they are videos (whose texts are not read), and rows in the list."""

    def __call__(self, cheap: pa.RecordBatch) -> Mask:
        photo_ids: Ids = cheap.column("photo_id").to_numpy()
        if len(photo_ids):
            self.first = (cheap.column("line")[0].as_py(), photo_ids[0].item())
        is_video: Mask = cheap.column("is_video").to_numpy(zero_copy_only=False)
        is_candidate = np.ones(len(photo_ids), np.bool_)
        entries = np.full(len(photo_ids), -1, np.int64)
        if self.judge.subset is not None:
            entries, contradicts = self.judge.subset.find(cheap)
            self.counts[Reason.NOT_IN_LIST] = int((entries < 0).sum())
            self.counts[Reason.LIST_MISMATCH] = int(contradicts.sum())
            self._describe(cheap, entries, contradicts, self.judge.subset)
            is_candidate = (entries >= 0) & ~contradicts
        elif self.judge.captions is not None:
            entries = self.judge.captions.find(photo_ids)
            is_candidate = entries >= 0
            self.counts[Reason.NOT_IN_LIST] = int((~is_candidate).sum())
        self.photo_ids, self.is_video = photo_ids[is_candidate], is_video[is_candidate]
        self.entries = entries[is_candidate]
        return is_candidate & ~is_video

    def _describe(self, cheap: pa.RecordBatch, entries: Ids, contradicts: Mask, subset: SubsetList) -> None:
        shown = np.flatnonzero(contradicts)[:_SHOWN_PER_CHUNK]
        self.mismatches = tuple(
            f"the metadata has line {row['line']}, photo {row['photo_id']}, key "
            f"{text_column(pa.array([row['bucket_key']]))[0]}, the list {subset.describe(entries[at])}"
            for at, row in zip(shown.tolist(), cheap.take(pa.array(shown)).to_pylist(), strict=True)
        )


def bucket_keys(urls: Sequence[str]) -> list[str]:
    """Names of pictures in the public bucket: the MD5 of the download URL, each byte without its leading zero.

    Verified on 1000 rows of the metadata. Its URLs all begin with http://, lists made later also with https://.
    """
    digests = (
        hashlib.md5(url.replace("https://", "http://", 1).encode(), usedforsecurity=False).digest() for url in urls
    )
    return ["".join([_HEX[byte] for byte in digest]) for digest in digests]


_HEX = [f"{byte:x}" for byte in range(256)]


def _key_ids(keys: Sequence[str]) -> Ids:
    """A number below zero for every key: 62 bits of its hash tell fifteen million keys apart."""
    digests = b"".join(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.int64) | np.int64(-(1 << 63)) | np.int64(1)


def _keys_and_ids(batch: pa.RecordBatch) -> tuple[pa.StringArray, Ids]:
    """Names of the samples and numbers that are equal where they are.

    A key of its own, else the photo id, else the position in the metadata with nine digits (no photo id has a leading
    zero, and no list without ids has 100 million rows).
    """
    photo_ids: Ids = batch.column("photo_id").to_numpy()
    given = batch.column("key")
    has_key = pc.not_equal(given, "").to_numpy(zero_copy_only=False)
    is_photo = ~has_key & (photo_ids >= 0)
    positions = pc.utf8_lpad(batch.column("row").cast(pa.string()), 9, "0")
    numbered = pc.if_else(pa.array(is_photo), batch.column("photo_id").cast(pa.string()), positions)
    keys = pc.if_else(pa.array(has_key), given, numbered)
    ids = photo_ids.copy()
    ids[~is_photo] = _key_ids(keys.filter(pa.array(~is_photo)).to_pylist())
    return keys, ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The rules of one selection; small, goes to every process."""

    english_fields: tuple[str, ...]
    """Variant `english`: the texts of which one must pass; () for the others."""
    is_paper: bool
    """Captions as the published script makes them; which rows `english` takes is judged by cleaned ones even so."""
    subset: SubsetList | None = None
    captions: ListedCaptions | None = None
    scored: tuple[Path, ...] = ()
    """Arrays of photo ids, ascending: the lists that `english` is scored by."""

    def __call__(self, chunk: Chunk) -> Judged:
        sieve = _Sieve(self)
        rows = read_chunk(chunk, sieve)
        batch, num_candidates = rows.batch, len(sieve.photo_ids)
        assert batch.num_rows == num_candidates - sieve.is_video.sum(), f"{chunk.url}: other rows than were asked for"
        is_encoded = rows.is_encoded
        entries = sieve.entries[~sieve.is_video]
        texts = batch
        if self.captions is not None:
            texts, is_encoded = self._listed_texts(entries), False
        verdicts = self._verdicts(texts, is_encoded=is_encoded)
        keys, ids_of_batch = _keys_and_ids(batch)
        ids, codes = sieve.photo_ids.copy(), np.full(num_candidates, CODE_OF[Reason.VIDEO], np.uint8)
        ids[~sieve.is_video], codes[~sieve.is_video] = ids_of_batch, verdicts.codes
        lost = tuple(_count_codes(codes[search(load_array(path), ids) >= 0]) for path in self.scored)
        counts = sieve.counts + Counter({Reason.MALFORMED_ROW: rows.num_malformed})
        if self.english_fields:
            counts += Counter({reason: int((codes == code).sum()) for reason, code in CODE_OF.items()})
            ids, codes = ids[codes == KEPT], codes[codes == KEPT]
        kept = self._kept(batch, keys, verdicts, entries, is_encoded=rows.is_encoded)
        return Judged(
            num_rows=chunk.num_rows,
            done_bytes=chunk.done_bytes,
            counts=counts,
            ids=ids,
            codes=codes,
            kept=kept,
            mismatches=sieve.mismatches,
            first=sieve.first,
            lost=lost,
        )

    def _verdicts(self, texts: pa.RecordBatch, *, is_encoded: bool) -> Verdicts:
        if not self.english_fields:
            return (paper_verdicts if self.is_paper else clean_verdicts)(texts, is_encoded=is_encoded)
        verdicts = english_verdicts(texts, fields=self.english_fields, is_encoded=is_encoded)
        if not self.is_paper:
            return verdicts
        paper = paper_verdicts(texts.filter(pa.array(verdicts.is_kept)), is_encoded=is_encoded)
        return Verdicts(codes=verdicts.codes, texts=paper.texts, usable=paper.usable)

    def _listed_texts(self, entries: Ids) -> pa.RecordBatch:
        assert self.captions is not None
        titles = pa.array([""] * len(entries), pa.string())
        return pa.RecordBatch.from_arrays([titles, self.captions.captions(entries)], names=["title", "description"])

    def _kept(
        self, batch: pa.RecordBatch, keys: pa.StringArray, verdicts: Verdicts, entries: Ids, *, is_encoded: bool
    ) -> pa.RecordBatch:
        """The kept rows, finished."""
        where = pa.array(verdicts.is_kept)
        batch, keys = batch.filter(where), keys.filter(where)
        urls = text_column(batch.column("url"))
        lines: Ids = batch.column("line").to_numpy()
        names = text_column(batch.column("bucket_key"))
        if self.subset is not None:
            entries, keys_of = entries[verdicts.is_kept], self.subset.keys
            lines = np.where(lines < 0, self.subset.column("line")[entries], lines)
            names = _filled(names, lambda missing: keys_of(entries[missing]))
        is_photo = batch.column("photo_id").to_numpy() >= 0
        names = _filled(names, lambda missing: bucket_keys(urls.filter(pa.array(missing)).to_pylist()), where=is_photo)
        columns = {
            "key": keys,
            "row": batch.column("row"),
            "photo_id": batch.column("photo_id"),
            "line": pa.array(lines),
            "bucket_key": names,
            "url": urls,
            **verdicts.texts,
            "title_usable": pa.array(verdicts.usable["title"]),
            "description_usable": pa.array(verdicts.usable["description"]),
            **{name: decode_column(batch.column(name), is_encoded=is_encoded) for name in _OF_ONE},
            **{name: _decode_repeated(batch.column(name), is_encoded=is_encoded) for name in _OF_MANY},
        }
        return pa.RecordBatch.from_arrays([columns[name] for name in SELECTION_SCHEMA.names], schema=SELECTION_SCHEMA)


def _filled(
    names: pa.StringArray, find: Callable[[Mask], Sequence[str]], *, where: Mask | None = None
) -> pa.StringArray:
    """The names with what is found in the place of empty ones."""
    missing: Mask = pc.equal(names, "").to_numpy(zero_copy_only=False)
    if where is not None:
        missing &= where
    if not missing.any():
        return names
    return pc.replace_with_mask(names, pa.array(missing), pa.array(find(missing), pa.string()))


def _decode_repeated(column: pa.Array, *, is_encoded: bool) -> pa.StringArray:
    """`decode_column` of a column with few values."""
    encoded = column.dictionary_encode()
    return decode_column(encoded.dictionary, is_encoded=is_encoded).take(encoded.indices)


def _count_codes(codes: Codes) -> Ids:
    """How many rows have each code."""
    return np.bincount(codes, minlength=len(CODE_OF) + 1).astype(np.int64)


def judge_for(config: BuildConfig, *, scored: tuple[Path, ...]) -> Judge:
    """The rules of a selection but for its list, which is the caller's to read."""
    is_english = config.chosen_variant == "english"
    fields = tuple(config.caption_fields.split(",")) if is_english else ()
    return Judge(english_fields=fields, is_paper=config.captions == "paper", scored=scored if is_english else ())
