"""The ledger: which samples each rank consumed in which step, and the verb `slip ledger` that proves from it that
every sample was used exactly once per epoch.

In: the rows of each step, from the training loop with `--ledger`. Out: one file per rank and *segment* (the steps
between two checkpoints), OUTPUT/ledger/00000500-00001000/rank-00001-of-00004.ledger, written by `slip.ledger_format`.
All ranks write their segment before rank 0 writes the checkpoint of the same step, and on resume `cut` takes away what
lies beyond the checkpoint: so the ledger covers exactly the steps that the checkpoint vouches for, each of them once,
whatever was killed in between and however many ranks each part had. `slip.ledger_verify` reads it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import store
from pipeline.errors import CheckpointError, InputError
from slip.ledger_format import Header, Int64Array, LedgerFile, Rows, decode, encode, pack_rows

logger = logging.getLogger(__name__)

FOLDER = "ledger"
_SEGMENT_NAME = re.compile(r"(\d{8,})-(\d{8,})")
_FILE_NAME = re.compile(r"rank-(\d{5,})-of-(\d{5,})\.ledger")
_READERS = 8
"""Files of a segment read at the same time; a request to an object store is mostly waiting."""


Files = dict[tuple[int, int], str]
"""(rank, world size) -> URL, by rank."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Segment:
    """The folder of the steps from `first` to `stop` - 1."""

    first: int
    stop: int
    url: str

    def files(self) -> Files:
        """What is there; other names are left alone."""
        matches = [(name, _FILE_NAME.fullmatch(name)) for name in store.list_names(self.url)]
        found = {(int(m[1]), int(m[2])): store.join(self.url, name) for name, m in matches if m is not None}
        return dict(sorted(found.items()))


def segment_name(first: int, stop: int) -> str:
    """(500, 1000) -> "00000500-00001000"."""
    return f"{first:08d}-{stop:08d}"


def file_name(rank: int, world_size: int) -> str:
    """(1, 4) -> "rank-00001-of-00004.ledger"."""
    return f"rank-{rank:05d}-of-{world_size:05d}.ledger"


def segments(output: str) -> list[Segment]:
    """The folders of segments in the order of their steps, empty ones too: local folders outlive their files."""
    folder = store.join(output, FOLDER)
    matches = [(name, _SEGMENT_NAME.fullmatch(name)) for name in store.list_names(folder)]
    return sorted(
        Segment(first=int(m[1]), stop=int(m[2]), url=store.join(folder, name)) for name, m in matches if m is not None
    )


def _read(url: str, segment: Segment, rank: int, world_size: int) -> LedgerFile | InputError:
    try:
        file = decode(store.read_bytes(url), url)
    except InputError as error:
        return error
    found = (file.header.first, file.header.stop, file.header.rank, file.header.world_size)
    if found != (segment.first, segment.stop, rank, world_size):
        return InputError(
            f"{url}: by its content it is {segment_name(*found[:2])}/{file_name(*found[2:])}; it was copied or renamed"
        )
    return file


def read_segment(segment: Segment, files: Files) -> Iterator[LedgerFile | InputError]:
    """The files of a segment by rank, several read at the same time; an error in place of each that is not sound."""
    ranks, world_sizes = [rank for rank, _ in files], [world_size for _, world_size in files]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="ledger") as pool:
        yield from pool.map(_read, files.values(), [segment] * len(files), ranks, world_sizes)


def written_segments(output: str) -> list[tuple[Segment, Files]]:
    """What there is of a run's ledger, in the order of steps; InputError when there is nothing."""
    found = segments(output)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="ledger") as pool:
        listed = [
            (segment, files) for segment, files in zip(found, pool.map(Segment.files, found), strict=True) if files
        ]
    if not listed:
        raise InputError(f"{output}: no ledger ({FOLDER}/ is missing or empty); it is kept by training with --ledger")
    return listed


class Ledger:
    """Notes what this rank consumes. Call `add` once per step and `flush` where a checkpoint is due."""

    def __init__(self, output: str, *, rank: int, world_size: int, digest: str, seed: int, global_batch: int) -> None:
        self._folder = store.join(output, FOLDER)
        self._rank, self._world_size = rank, world_size
        self._digest, self._seed, self._global_batch = digest, seed, global_batch
        self._rows: list[Rows] = []

    def add(self, step: int, planned: Int64Array, used: Int64Array, epochs: Int64Array) -> None:
        """Note this rank's rows of one step, in any order and of equal length.

        Args:
            step: its number; steps follow each other.
            planned: the samples the plan says.
            used: the samples used, different where a damaged one was replaced.
            epochs: the epoch of its data set that each row belongs to.
        """
        if self._rows and step != self._rows[-1].step + 1:
            raise ValueError(f"step {step} follows step {self._rows[-1].step} in the ledger")
        self._rows.append(pack_rows(step, planned, used, epochs))

    def flush(self) -> None:
        """Write the steps since the last flush as one file, whole or not at all; nothing when there are none."""
        if not self._rows:
            return
        first, stop = self._rows[0].step, self._rows[-1].step + 1
        header = Header(
            rank=self._rank,
            world_size=self._world_size,
            digest=self._digest,
            seed=self._seed,
            global_batch=self._global_batch,
            first=first,
            stop=stop,
        )
        url = store.join(self._folder, segment_name(first, stop), file_name(self._rank, self._world_size))
        store.write_bytes(url, encode(header, self._rows))
        self._rows = []


def _names(segment: Segment) -> list[str]:
    """Everything a rank wrote or began to write there."""
    return [name for name in store.list_names(segment.url) if name.startswith("rank-")]


def cut(output: str, step: int) -> None:
    """Delete what was written for steps from `step` on; call on rank 0, before any rank adds a step.

    CheckpointError when a segment has steps on both sides: no run that kept this ledger stopped there.
    """
    found = segments(output)
    before = [segment for segment in found if segment.first < step]
    for segment in before:
        if segment.stop > step and segment.files():
            raise CheckpointError(
                f"{segment.url}: holds steps {segment.first} to {segment.stop - 1} in one piece, and the run goes on "
                f"from step {step} inside it; the checkpoint there was written without --ledger: go on from one of "
                f"step {segment.first} or {segment.stop}, or delete {store.join(output, FOLDER)} to begin a new one"
            )
    void = [store.join(segment.url, name) for segment in found if segment.first >= step for name in _names(segment)]
    for url in void:
        store.delete(url)
    if void:
        logger.info("%s: deleted %d ledger files of steps from %d on, which are done again", output, len(void), step)
    covered = max((segment.stop for segment in before), default=0)
    if covered < step:
        logger.warning(
            "%s: the ledger has no steps %d to %d, which were done without --ledger; it cannot prove their epochs",
            *(output, covered, step - 1),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `slip ledger verify|show|checksum`; 0 done or proved, 1 error or not proved, 2 usage."""
    # The training loop imports this module for `Ledger` and needs nothing of the command.
    from slip.ledger_command import run

    return run(argv)
