"""The embedded default: a small Flickr, made on the spot, so that a newcomer can run the whole job in minutes.

`make_sample` writes metadata in YFCC100M's exact v2 form, OpenAI's list for it, pictures, and a labelled
held-out set; `SampleFlickr` serves the pictures to the build. Everything follows from a seed. It is a fixture
and a demonstration: the pictures are drawn by a program and their captions come from templates. Nothing of
YFCC100M is in it, and no number measured on it says anything about a model trained on photographs.

    FOLDER/yfcc100m_dataset.tsv           25 columns a row, as in yfcc100m_dataset.bz2
    FOLDER/yfcc100m_subset_data.tsv       line number, photo id, key
    FOLDER/photos/ID_SECRET.jpg           one file a photograph, except those that are gone
    FOLDER/photos/fates.json              which photographs are gone, and how
    FOLDER/heldout/                       labelled pictures, laid out as CLIP_benchmark's WebDatasets are
    FOLDER/sample.json                    written last: the settings of a finished sample
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import multiprocessing
import os
import random
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import StoreError
from pipeline.sample.pictures import draw_picture
from pipeline.sample.rows import VERSION, Photo, fates, make_rows
from pipeline.sample.server import FATES_NAME, SampleFlickr
from pipeline.sample.subjects import CLASSNAMES, draw_subject

__all__ = ["CLASSNAMES", "SampleFlickr", "SamplePaths", "make_sample"]

TEMPLATES = (
    "a photo of a {c}.",
    "a photo of the {c}.",
    "a picture of a {c}.",
    "close up of a {c}.",
    "a {c} outdoors.",
    "my favourite {c}.",
    "{c}",
)
"""Prompts for zero-shot classification of the held-out pictures."""

_PHOTO_NAME = re.compile(r"\d+_[0-9a-f]+\.jpg(\.part)?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePaths:
    """Where the parts of a finished sample are."""

    metadata: Path
    subset_list: Path
    photos: Path
    heldout: Path

    @classmethod
    def inside(cls, folder: Path) -> SamplePaths:
        """The parts' places in a sample's folder."""
        return cls(
            metadata=folder / "yfcc100m_dataset.tsv",
            subset_list=folder / "yfcc100m_subset_data.tsv",
            photos=folder / "photos",
            heldout=folder / "heldout",
        )


def _write(path: Path, data: bytes) -> None:
    """Write a file that has its name only once it is whole."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out of the folder: two processes may want the same sample at the same time."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _draw_photo(task: tuple[Photo, Path]) -> None:
    photo, path = task
    _write(path, draw_picture(photo.subject, seed=photo.seed, camera=photo.camera))


def _draw_heldout(task: tuple[int, int]) -> bytes:
    """A held-out picture; the classes take turns, and the seeds are no row's."""
    number, seed = task
    key = f"{VERSION}/{seed}/heldout/{number}"
    subject = draw_subject(random.Random(f"{key}/subject"), label=number % len(CLASSNAMES))
    return draw_picture(subject, seed=key)


def _heldout_tar(pictures: Sequence[bytes]) -> bytes:
    """A tar of NAME.jpg and NAME.cls (the class's number as text) whose bytes depend on the pictures alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, picture in enumerate(pictures):
            for ext, data in (("cls", str(number % len(CLASSNAMES)).encode()), ("jpg", picture)):
                member = tarfile.TarInfo(f"s{number:07d}.{ext}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _draw_all(todo: list[tuple[Photo, Path]], heldout: list[tuple[int, int]]) -> list[bytes]:
    """Write the missing photographs, return the held-out ones; on all cores, with a bar on a terminal."""
    # Forked children only draw. A spawned one would first run the caller's script again.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    pictures: list[bytes] = []
    processes = min(os.cpu_count() or 1, 16)
    total = len(todo) + len(heldout)
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        tqdm(total=total, desc="drawing the sample", unit="picture", disable=None) as bar,
    ):
        for _ in pool.map(_draw_photo, todo, chunksize=16):
            bar.update()
        for picture in pool.map(_draw_heldout, heldout, chunksize=16):
            pictures.append(picture)
            bar.update()
    return pictures


def _write_heldout(folder: Path, pictures: Sequence[bytes]) -> None:
    """Lay the held-out pictures out as CLIP_benchmark expects a WebDataset."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    _write(folder / "classnames.txt", "".join(f"{name}\n" for name in CLASSNAMES).encode())
    _write(folder / "zeroshot_classification_templates.txt", "".join(f"{line}\n" for line in TEMPLATES).encode())
    _write(folder / "test" / "nshards.txt", b"1")
    _write(folder / "test" / "0.tar", _heldout_tar(pictures))


def _make(paths: SamplePaths, *, num_rows: int, num_heldout: int, seed: int) -> None:
    """Write everything but the marker, keeping the photographs that are there already."""
    rows = make_rows(num_rows, seed=seed)
    ends = fates(rows)
    photos = {row.photo.name: row.photo for row in rows if row.photo is not None}
    photos = {name: photo for name, photo in photos.items() if ends.get(name) not in ("dead", "placeholder")}
    paths.photos.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in paths.photos.iterdir() if _PHOTO_NAME.fullmatch(path.name)}
    for name in there - photos.keys():  # of a sample with other settings, or left by a killed run
        (paths.photos / name).unlink()
    todo = [(photo, paths.photos / name) for name, photo in photos.items() if name not in there]
    _write_heldout(paths.heldout, _draw_all(todo, [(number, seed) for number in range(num_heldout)]))
    _write(paths.photos / FATES_NAME, json.dumps(ends, indent=1, sort_keys=True).encode() + b"\n")
    _write(paths.metadata, "".join(f"{row.line}\n" for row in rows).encode("ascii"))
    _write(paths.subset_list, "".join(f"{row.list_line}\n" for row in rows if row.listed).encode("ascii"))


def make_sample(folder: Path, *, num_rows: int = 4000, num_heldout: int = 500, seed: int = 0) -> SamplePaths:
    """Make the small Flickr in `folder`, unless it is there already; the same settings give the same bytes.

    A folder left half-made is completed, one made with other settings is made anew. This is a fixture and a
    demonstration with drawn pictures, not YFCC100M.

    Args:
        num_rows: rows of metadata; about 70 % are in the list, and 4.5 % of those cannot be fetched.
        num_heldout: labelled pictures for zero-shot classification, shared evenly among ten classes.
        seed: another seed gives other pictures and other rows.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    paths, marker = SamplePaths.inside(folder), folder / "sample.json"
    settings = {"version": VERSION, "num_rows": num_rows, "num_heldout": num_heldout, "seed": seed}
    finished = json.dumps(settings, sort_keys=True).encode() + b"\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if marker.exists() and marker.read_bytes() == finished:
                return paths
            marker.unlink(missing_ok=True)
            _log.info("making the embedded sample in %s: %d rows, %d held-out pictures", folder, num_rows, num_heldout)
            start = time.perf_counter()
            _make(paths, num_rows=num_rows, num_heldout=num_heldout, seed=seed)
            _write(marker, finished)
            _log.info("made the embedded sample in %.0f s", time.perf_counter() - start)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot make the embedded sample there: {error}; free space or choose another folder"
        ) from error
    return paths
