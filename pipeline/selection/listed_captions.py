"""DeCLIP's list, kept on disk to look captions up in while metadata is read.

In: the list's rows (photo id and caption; 15,388,848 in the real one) as `metadata` reads them. Out: a folder with the
photo ids in order, 20 bytes a row that every process maps, and one file of captions, of which only those wanted are
read: memory does not grow with their 1.5 GB.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import BuildConfig
from pipeline.errors import InputError
from pipeline.metadata.metadata import open_chunks, read_chunk
from pipeline.selection.subset_list import load_array, read_pieces, search

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedCaptions:
    """The list's rows in the order of their photo ids; small, goes to every process."""

    url: str
    folder: Path
    num_rows: int

    @property
    def photo_ids(self) -> NDArray[np.int64]:
        """Ascending."""
        return load_array(self.folder / "photo_id.npy")

    def find(self, photo_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each photo in the list, -1 for none."""
        return search(self.photo_ids, photo_ids)

    def captions(self, entries: NDArray[np.int64]) -> pa.StringArray:
        """The captions of rows of the list, as they stand there."""
        starts = load_array(self.folder / "start.npy")[entries].tolist()
        sizes = load_array(self.folder / "size.npy")[entries].tolist()
        return pa.array(read_pieces(self.folder / "captions", starts, sizes), pa.binary()).cast(pa.string())


def list_config(url: str) -> BuildConfig:
    """Settings under which `metadata` reads DeCLIP's list itself as rows."""
    return BuildConfig(variant="declip", subset_list=url, output="unused")


def read_photo_ids(url: str) -> NDArray[np.int64]:
    """The photo ids in DeCLIP's list, in its order; rows without one are left out."""
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]

    def note(cheap: pa.RecordBatch) -> NDArray[np.bool_]:
        parts.append(cheap.column("photo_id").to_numpy())
        return np.zeros(cheap.num_rows, np.bool_)

    for chunk in open_chunks(list_config(url)):
        read_chunk(chunk, note)
    ids: NDArray[np.int64] = np.concatenate(parts)
    return ids[ids >= 0]


def read_listed_captions(url: str, folder: Path) -> ListedCaptions:
    """Read DeCLIP's list into `folder`, which is made; of several rows with one photo the first counts."""
    folder.mkdir(parents=True, exist_ok=True)
    ids: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    sizes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    num_rows = 0
    with (folder / "captions").open("wb") as file:
        for chunk in open_chunks(list_config(url)):
            rows = read_chunk(chunk)
            num_rows += rows.batch.num_rows + rows.num_malformed
            captions = [text.encode("utf-8", "replace") for text in rows.batch.column("description").to_pylist()]
            ids.append(rows.batch.column("photo_id").to_numpy())
            sizes.append(np.fromiter(map(len, captions), np.int32, len(captions)))
            file.write(b"".join(captions))
    photo_ids, size = np.concatenate(ids), np.concatenate(sizes)
    start = np.cumsum(size, dtype=np.int64) - size
    distinct, first = np.unique(photo_ids, return_index=True)
    if len(distinct) and distinct[0] < 0:
        distinct, first = distinct[1:], first[1:]
    if not len(distinct):
        raise InputError(f"{url}: none of {num_rows} rows has a photo id in its address; expected DeCLIP's list")
    if len(distinct) < num_rows:
        log.warning(
            "%s: %d of %d rows have no photo id, or that of an earlier row", url, num_rows - len(distinct), num_rows
        )
    for name, array in (("photo_id", distinct), ("start", start[first]), ("size", size[first])):
        np.save(folder / f"{name}.npy", array)
    return ListedCaptions(url=url, folder=folder, num_rows=len(distinct))
