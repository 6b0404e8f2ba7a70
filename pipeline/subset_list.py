"""OpenAI's list of YFCC15M: which rows of YFCC100M belong to the data set.

In: lines of line number, photo id and key, separated by tabs, no header, text or bzip2 (14,829,396 of them in the
real one). Out: two arrays of numbers, 16 bytes a row, that a batch of metadata is looked up in at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.lines import parse_integers, read_blocks, split_columns

COLUMNS = ("line", "photo_id", "key")
_WHAT = "OpenAI's list (line number, photo id and key, separated by tabs, no header)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetList:
    """The list's rows, in the order of their line numbers."""

    url: str
    lines: NDArray[np.int64]
    """Ascending, none twice."""
    photo_ids: NDArray[np.int64]
    first_entry: NDArray[np.int32] | None
    """For each entry the first entry with the same photo id; None when no id occurs twice (as in the real list)."""

    def find(self, lines: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The entry of each line number, and whether there is one (where not, the entry means nothing)."""
        entries = np.searchsorted(self.lines, lines)
        entries[entries == len(self.lines)] = 0
        return entries, self.lines[entries] == lines

    def entries_of_photo(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same entries, made equal where their photo id is."""
        return entries if self.first_entry is None else self.first_entry[entries].astype(np.int64)


def _first_entries(photo_ids: NDArray[np.int64]) -> NDArray[np.int32] | None:
    ascending = np.sort(photo_ids)
    if not (ascending[1:] == ascending[:-1]).any():
        return None
    del ascending
    _, first, inverse = np.unique(photo_ids, return_index=True, return_inverse=True)
    entries: NDArray[np.int32] = first.astype(np.int32)[inverse]
    return entries


def _read(url: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Line numbers and photo ids as they stand in the file."""
    lines: list[NDArray[np.int64]] = []
    photo_ids: list[NDArray[np.int64]] = []
    for block in read_blocks(url, what=_WHAT):
        columns = split_columns(block, COLUMNS, wanted=("line", "photo_id"))
        if len(columns.lines) < len(columns.widths):
            offset = int(np.argmax(columns.widths != len(COLUMNS)))
            raise InputError(
                f"{url}: line {block.first_line + offset + 1} has {columns.widths[offset]} columns; expected {_WHAT}"
            )
        for name, parts in (("line", lines), ("photo_id", photo_ids)):
            values, is_number = parse_integers(columns.batch.column(name))
            if not is_number.all():
                offset = int(np.argmin(is_number))
                found = columns.batch.column(name)[offset].as_py().decode(errors="replace")
                raise InputError(
                    f"{url}: line {block.first_line + offset + 1}: {found[:200]!r} is no number (column {name}); "
                    f"expected {_WHAT}"
                )
            parts.append(values)
    return np.concatenate(lines), np.concatenate(photo_ids)


def read_subset_list(url: str) -> SubsetList:
    """Read and sort the list; a line number that stands there twice with different photos is an InputError."""
    lines, photo_ids = _read(url)
    if not (lines[1:] > lines[:-1]).all():
        order = np.argsort(lines, kind="stable")
        lines, photo_ids = lines[order], photo_ids[order]
        is_repeat = np.concatenate([[False], lines[1:] == lines[:-1]])
        contradicts = is_repeat & np.concatenate([[False], photo_ids[1:] != photo_ids[:-1]])
        if contradicts.any():
            at = int(np.argmax(contradicts))
            raise InputError(
                f"{url}: line number {lines[at]} is listed with photo {photo_ids[at - 1]} and with photo "
                f"{photo_ids[at]}; expected {_WHAT}, each line number once"
            )
        lines, photo_ids = lines[~is_repeat], photo_ids[~is_repeat]
    return SubsetList(url=url, lines=lines, photo_ids=photo_ids, first_entry=_first_entries(photo_ids))
