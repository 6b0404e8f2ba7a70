"""Rows of metadata, whatever they are stored in: chunks to read, and Arrow batches of bounded size.

One process cuts files into chunks in order (`open_chunks`), any process reads one (`read_chunk`). What a file holds is
told by its content. Texts are handed on as they are stored. Malformed rows are counted; which of the others are wanted
is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import InputError
from pipeline.metadata import parquet as metadata_parquet
from pipeline.metadata import sqlite as metadata_sqlite
from pipeline.metadata.caption_lists import WHAT as LISTS
from pipeline.metadata.caption_lists import check_list, read_list, redcaps_chunks
from pipeline.metadata.lines import Block, cut_blocks, cut_local, is_packed, stored_bytes
from pipeline.metadata.local_table import read_table, table_chunks
from pipeline.metadata.parquet import check_folder, ingested_form, parquet_chunks, read_parquet
from pipeline.metadata.rows import Chunk, Form, Rows, Wanted
from pipeline.metadata.sqlite import read_sqlite, sqlite_chunks
from pipeline.metadata.text import WHAT as TEXT
from pipeline.metadata.text import form_of_text, read_text
from pipeline.store_faults import translated

__all__ = ["Chunk", "Form", "Rows", "Wanted", "files", "form", "open_chunks", "read_chunk", "total_bytes"]

_JUDGED_BYTES = 1 << 20
"""Of a file's text, from its beginning, to tell what it is."""
_ENDINGS = {"yfcc": (".parquet", ".bz2"), "redcaps": (".json",)}
"""What a folder is searched for, the first that is found; in others for .parquet."""

_READERS: dict[Form, Callable[[Chunk, Wanted | None], Rows]] = {
    "v1": read_text,
    "v2": read_text,
    "sqlite": read_sqlite,
    "parquet": read_parquet,
    "local": read_table,
    "cc3m": read_list,
    "cc12m": read_list,
    "redcaps": read_list,
    "declip": read_list,
}


def _what(config: BuildConfig) -> str:
    """What a file should be, for messages."""
    if config.dataset == "local":
        return "a Parquet table"
    return LISTS["declip" if not config.metadata else config.dataset] if _is_list(config) else TEXT


def _is_list(config: BuildConfig) -> bool:
    """Whether rows are those of a list that is not YFCC100M's metadata."""
    return config.dataset in LISTS or not config.metadata


def files(config: BuildConfig) -> tuple[str, ...]:
    """All files with rows, in order: a folder stands for those in it. Without --metadata DeCLIP's list is read."""
    found: list[str] = []
    for url in config.metadata or (config.subset_list or "",):
        if store.size(url) is not None or not store.exists(url):
            found.append(url)
            continue
        names = store.list_names(url)
        endings = _ENDINGS.get(config.dataset, (".parquet",))
        chosen = next(filter(None, ([name for name in names if name.endswith(end)] for end in endings)), [])
        if not chosen:
            raise InputError(f"{url}: no file of this folder ends with {' or '.join(endings)}; name the files instead")
        if config.dataset == "yfcc" and chosen[0].endswith(".parquet"):
            check_folder(url, chosen)
        found += [store.join(url, name) for name in chosen]
    return tuple(found)


def total_bytes(config: BuildConfig) -> int:
    """Size of all files as stored; an InputError when one is missing or empty."""
    return sum(stored_bytes(url, what=_what(config)) for url in files(config))


def _first_block(url: str, what: str) -> Block:
    """The first lines of a text."""
    with closing(cut_blocks(url, what=what, block_bytes=_JUDGED_BYTES)) as blocks:
        return next(blocks)


def _form(config: BuildConfig, url: str) -> tuple[Form, str]:
    """How to read a file, and what it was made from."""
    stored_bytes(url, what=_what(config))
    if config.dataset == "local" or config.dataset == "redcaps":
        return config.dataset, config.dataset
    if _is_list(config):
        form: Form = "declip" if config.dataset == "yfcc" else config.dataset
        check_list(_first_block(url, LISTS[form]), form)
        return form, form
    with translated(url, "read"):
        filesystem, path = store.filesystem(url)
        with filesystem.open(path, "rb") as file:
            head = file.read(16)
    if head.startswith(metadata_parquet.MAGIC):
        return "parquet", ingested_form(url) or "parquet"
    if head == metadata_sqlite.MAGIC:
        return "sqlite", "sqlite"
    form = form_of_text(_first_block(url, TEXT))
    return form, form


def _forms(config: BuildConfig, urls: tuple[str, ...]) -> list[tuple[Form, str]]:
    """How to read each file; InputError when they do not go together."""
    forms = [_form(config, url) for url in urls]
    if config.dataset == "yfcc":
        for url, (_, origin) in zip(urls, forms, strict=True):
            if origin != forms[0][1]:
                raise InputError(
                    f"{url}: holds {origin} rows, but {urls[0]} {forms[0][1]} rows; files of different forms hold the "
                    "same photos again, so give files of one form only"
                )
    return forms


def form(config: BuildConfig) -> str:
    """What rows come from: "v1", "v2", "sqlite", "parquet" (of unknown origin), or another data set's name."""
    urls = files(config)
    return _forms(config, urls)[0][1]


def _text_chunks(
    url: str, form: Form, *, what: str, threads: int, first_row: int, bytes_before: int
) -> Iterator[Chunk]:
    """All lines of a file; where it is plain text on a local disk, only where they are."""
    if store.is_local(url) and not is_packed(url):
        for span in cut_local(url, what=what):
            yield Chunk(
                url=url,
                form=form,
                first_row=first_row,
                num_rows=span.num_lines,
                done_bytes=bytes_before + span.stop,
                start=span.start,
                stop=span.stop,
            )
            first_row += span.num_lines
        return
    for block in cut_blocks(url, what=what, threads=threads):
        yield Chunk(
            url=url,
            form=form,
            first_row=first_row + block.first_line,
            num_rows=block.data.count(b"\n"),
            done_bytes=bytes_before + block.stored_bytes,
            data=block.data,
            start=block.start,
            stop=block.start + len(block.data),
        )


def _chunks(config: BuildConfig, url: str, form: Form, *, first_row: int, bytes_before: int) -> Iterator[Chunk]:
    """All rows of one file."""
    num_bytes = stored_bytes(url, what=_what(config))
    if form == "sqlite":
        return sqlite_chunks(url, first_row=first_row, bytes_before=bytes_before, num_bytes=num_bytes)
    if form == "parquet":
        return parquet_chunks(url, first_row=first_row, bytes_before=bytes_before, num_bytes=num_bytes)
    if form == "local":
        return table_chunks(url, first_row=first_row, bytes_before=bytes_before, num_bytes=num_bytes)
    if form == "redcaps":
        return redcaps_chunks(url, first_row=first_row, bytes_before=bytes_before)
    what = _what(config)
    return _text_chunks(url, form, what=what, threads=config.processes, first_row=first_row, bytes_before=bytes_before)


def open_chunks(config: BuildConfig) -> Generator[Chunk, None, None]:
    """All rows of all files, in order. `config.processes` threads unpack bzip2.

    Raises:
        InputError: a file is missing, damaged, or not what it should be; first of all for the files' beginnings.
    """
    urls = files(config)
    first_row = bytes_before = 0
    for url, (form, _) in zip(urls, _forms(config, urls), strict=True):
        for chunk in _chunks(config, url, form, first_row=first_row, bytes_before=bytes_before):
            yield chunk
            first_row = chunk.first_row + chunk.num_rows
        bytes_before += stored_bytes(url, what=_what(config))


def read_chunk(chunk: Chunk, wanted: Wanted | None = None) -> Rows:
    """The rows of a chunk; with `wanted`, texts only of those it says yes to, and the others counted."""
    return _READERS[chunk.form](chunk, wanted)
