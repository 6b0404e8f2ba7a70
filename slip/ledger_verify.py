"""What a ledger proves: every sample exactly once in each finished epoch, at most once in the one under way.

In: the segments of a run and the mix of data sets its sample ids belong to. Out: a `Verdict` with the counts of each
epoch, the samples missed, doubled and replaced by name, and what is wrong with the ledger itself. Nothing of the plan
is used: the counts are compared with the manifests alone, so a mistake of the plan shows as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from pipeline.errors import InputError, YfccError
from pipeline.manifest import ShardIndex, read_index
from slip.data.sets import Mix
from slip.ledger import Files, Segment, read_segment, written_segments
from slip.ledger_counts import MOST_NAMED, Counter, EpochCount, Kind
from slip.ledger_format import Int64Array, LedgerFile

_MOST_RANKS_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A sample that was not simply used once, and where it lies."""

    kind: Kind
    data_set: int
    epoch: int
    sample_id: int
    shard: str
    row: int
    key: str
    detail: str
    """How often it was noted, or what was used instead and when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a verification."""

    steps: int
    """Steps noted."""
    global_batch: int
    world_sizes: tuple[int, ...]
    """In the order in which they came."""
    epochs: tuple[EpochCount, ...]
    faults: tuple[Fault, ...]
    """The first of each kind."""
    problems: tuple[str, ...]
    """What is wrong with the ledger: missing, damaged, contradictory."""

    def total(self, kind: Kind) -> int:
        """Samples of one kind, over all epochs."""
        return sum(getattr(epoch, kind) for epoch in self.epochs)

    @property
    def proved(self) -> bool:
        """Whether the ledger is whole and has every sample as often as it must."""
        return not self.problems and not self.total("missed") and not self.total("doubled")


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What one pass over the segments finds."""

    counter: Counter
    mix: Mix
    problems: list[str]
    steps: int = 0
    world_sizes: list[int] = field(default_factory=list)
    reference: LedgerFile | None = None
    """The first sound file, whose seed and global batch the others must share."""

    def segment(self, segment: Segment, files: Files) -> None:
        """Count one segment and note what is wrong with it."""
        self.steps += segment.stop - segment.first
        world_size = max(world_size for _, world_size in files)
        if world_size not in self.world_sizes[-1:]:
            self.world_sizes.append(world_size)
        missing = missing_ranks(segment, files)
        self.problems += missing
        ids_of_step = np.zeros(segment.stop - segment.first, dtype=np.int64)
        sound = [self._count(file, ids_of_step) for file in read_segment(segment, files)]
        if all(sound) and not missing and self.reference is not None:
            self._check_batches(segment, ids_of_step, self.reference.header.global_batch)

    def _count(self, file: LedgerFile | InputError, ids_of_step: Int64Array) -> bool:
        """Count one file; False, and a problem noted, when it says nothing about this run."""
        if isinstance(file, InputError):
            self.problems.append(str(file))
            return False
        foreign = self._foreign(file)
        if foreign is not None:
            self.problems.append(foreign)
            return False
        unknown = 0
        for block in file.blocks():
            np.add.at(ids_of_step, block.steps - file.header.first, block.counts)
            unknown += self.counter.count(block)
        if unknown:
            self.problems.append(f"{file.url}: {unknown} ids are not among the {self.mix.num_samples} of the manifests")
        return True

    def _foreign(self, file: LedgerFile) -> str | None:
        """Why a sound file does not belong to this run or these manifests."""
        if file.header.digest != self.mix.digest:
            return (
                f"{file.url}: holds sample ids of data set {file.header.digest[:16]}, the manifests given are "
                f"{self.mix.digest[:16]}; name those of the run with --manifest (and --weights)"
            )
        self.reference = self.reference or file
        for name in ("seed", "global_batch"):
            found, expected = getattr(file.header, name), getattr(self.reference.header, name)
            if found != expected:
                return f"{file.url}: {name} is {found}, in {self.reference.url} it is {expected}: two different runs"
        return None

    def _check_batches(self, segment: Segment, ids_of_step: Int64Array, global_batch: int) -> None:
        wrong = np.flatnonzero(ids_of_step != global_batch)
        if wrong.size:
            first = f"step {segment.first + int(wrong[0])} has {int(ids_of_step[wrong[0]])} ids"
            more = f"; so it is with {wrong.size - 1} more steps" if wrong.size > 1 else ""
            self.problems.append(f"{segment.url}: {first}, expected the global batch of {global_batch}{more}")


def missing_ranks(segment: Segment, files: Files) -> list[str]:
    """What is wrong with the (rank, world size) of a segment's files; [] when every rank of one run is there."""
    world_sizes = sorted({world_size for _, world_size in files})
    if len(world_sizes) > 1:
        sizes = " and ".join(map(str, world_sizes))
        return [f"{segment.url}: has files of runs on {sizes} ranks, but one run writes a segment; delete the others"]
    there = {rank for rank, _ in files}
    missing = [rank for rank in range(world_sizes[0]) if rank not in there]
    if not missing:
        return []
    named = ", ".join(map(str, missing[:_MOST_RANKS_NAMED])) + (", ..." if len(missing) > _MOST_RANKS_NAMED else "")
    return [
        f"{segment.url}: the files of {len(missing)} of {world_sizes[0]} ranks are missing: rank {named}; if the run "
        "was killed as it wrote them, resume it: it does these steps again"
    ]


def _order_problems(found: Sequence[Segment]) -> list[str]:
    """Steps that no segment or two segments hold."""
    problems, stop = [], 0
    for segment in found:
        if segment.first > stop:
            problems.append(f"{segment.url}: steps {stop} to {segment.first - 1} before it are in no segment")
        if segment.first < stop:
            last = min(segment.stop, stop) - 1
            problems.append(f"{segment.url}: steps {segment.first} to {last} are in the segment before it as well")
        stop = max(stop, segment.stop)
    return problems


def _passed_over(counter: Counter, mix: Mix) -> list[str]:
    return [
        f"data set {mix.manifests[data_set].name}: epoch {last + 1} has begun, but nothing was noted of epoch {first}"
        + (f" to {last}" if last > first else "")
        for data_set, first, last in counter.passed_over()
    ]


class _Names:
    """Finds shard, row and key of a sample; an index is read once."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._indexes: dict[str, ShardIndex | str] = {}

    def of(self, sample_id: int) -> tuple[str, int, str]:
        """Shard name, row, key; the reason in parentheses when the index cannot be read."""
        placed, row = self._mix.find(sample_id)
        if placed.url not in self._indexes:
            try:
                self._indexes[placed.url] = read_index(placed.index_base, placed.shard)
            except YfccError as error:
                self._indexes[placed.url] = f"(no key: {error})"
        index = self._indexes[placed.url]
        return placed.shard.name, row, index if isinstance(index, str) else index.key(row)


def _named(counter: Counter, mix: Mix) -> tuple[tuple[EpochCount, ...], tuple[Fault, ...]]:
    """The counts of all epochs, and the first faults of each kind with shard, row and key."""
    names = _Names(mix)
    epochs: list[EpochCount] = []
    faults: list[Fault] = []
    left: dict[Kind, int] = {"missed": MOST_NAMED, "doubled": MOST_NAMED, "replaced": MOST_NAMED}
    for count, suspects in counter.summaries():
        epochs.append(count)
        for suspect in suspects:
            if left[suspect.kind]:
                left[suspect.kind] -= 1
                shard, row, key = names.of(suspect.sample_id)
                faults.append(
                    Fault(
                        kind=suspect.kind,
                        data_set=count.data_set,
                        epoch=count.epoch,
                        sample_id=suspect.sample_id,
                        shard=shard,
                        row=row,
                        key=key,
                        detail=suspect.detail,
                    )
                )
    return tuple(epochs), tuple(faults)


def verify(output: str, mix: Mix) -> Verdict:
    """Read the whole ledger of a run and say what it proves; InputError when there is none."""
    found = written_segments(output)
    problems = _order_problems([segment for segment, _ in found])
    reading = _Reading(counter=Counter(mix), mix=mix, problems=problems)
    # Shown on a terminal only, and when it takes more than two seconds.
    for segment, files in tqdm(found, desc="verify", unit=" segments", disable=None, delay=2):
        reading.segment(segment, files)
    reading.problems += _passed_over(reading.counter, mix)
    epochs, faults = _named(reading.counter, mix)
    return Verdict(
        steps=reading.steps,
        global_batch=reading.reference.header.global_batch if reading.reference else 0,
        world_sizes=tuple(reading.world_sizes),
        epochs=epochs,
        faults=faults,
        problems=tuple(reading.problems),
    )
