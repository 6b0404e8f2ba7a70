"""Which pictures came before, byte for byte, over the whole build.

In come the outcomes of fetched units, in ascending order; where a good picture's digest is that of an earlier good
one (of a lower unit, or before it in its own), its outcome is rewritten as `Reason.DUPLICATE_IMAGE`. Which one is
kept thus depends on the selection alone, not on what was fetched when or where, and marking again changes nothing.
Of 15 million pictures 20 bytes each are held in memory, 300 MB; the kept picture's key is looked up in its unit's
outcomes, where the whole digest is compared too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.fetch.fetched import outcomes_path, read_outcomes, write_outcomes
from pipeline.records import Reason, unit_name
from pipeline.selection.selection import num_units

log = logging.getLogger(__name__)

Words = npt.NDArray[np.uint64]

LONGEST_RUN = 1 << 20
"""Pictures in a sorted run above which it is merged no further: a merge needs twice its memory for a moment."""
_UNITS_AT_HAND = 16
"""Units whose keys are remembered; duplicates come in clusters (one user's upload)."""
_SAY_AFTER_S = 5.0


def _digest_words(sha256: Sequence[str]) -> Words:
    """The first 128 bits of each digest as two words: "00..01ff..." -> [[1, 0xff...]]."""
    data = bytes.fromhex("".join(digest[:32] for digest in sha256))
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _Run:
    """Digests sorted by their first word."""

    first: Words
    second: Words
    units: npt.NDArray[np.int32]

    @classmethod
    def sorted(cls, first: Words, second: Words, units: npt.NDArray[np.int32]) -> _Run:
        order = np.argsort(first, kind="stable")  # which merges two sorted halves in one pass
        return cls(first[order], second[order], units[order])

    def merged(self, other: _Run) -> _Run:
        joined = ((getattr(self, name), getattr(other, name)) for name in ("first", "second", "units"))
        return _Run.sorted(*(np.concatenate(pair) for pair in joined))

    def __len__(self) -> int:
        return len(self.first)


@dataclass(slots=True)
class DigestIndex:
    """Digests of the pictures kept so far and the units they are in."""

    runs: list[_Run] = field(default_factory=list)

    def add(self, words: Words, unit: int) -> None:
        """Note digests that a unit keeps."""
        if not len(words):
            return
        run = _Run.sorted(words[:, 0].copy(), words[:, 1].copy(), np.full(len(words), unit, np.int32))
        while self.runs and len(self.runs[-1]) <= len(run) and len(self.runs[-1]) + len(run) <= LONGEST_RUN:
            run = run.merged(self.runs.pop())
        self.runs.append(run)

    def find(self, words: Words) -> dict[int, list[int]]:
        """For each of these digests that is known, by its position, the units it is in."""
        found: dict[int, list[int]] = {}
        order = np.argsort(words[:, 0])
        first, second = words[order, 0], words[order, 1]  # asked in order, so that a run is gone through once
        for run in self.runs:
            start = np.searchsorted(run.first, first)
            for at in np.flatnonzero(run.first[np.minimum(start, len(run) - 1)] == first):
                index = int(start[at])
                while index < len(run) and run.first[index] == first[at]:
                    if run.second[index] == second[at]:
                        found.setdefault(int(order[at]), []).append(int(run.units[index]))
                    index += 1
        return found


class Duplicates:
    """Marks duplicates; what earlier runs kept is read from their outcomes when it is first needed."""

    def __init__(self, config: BuildConfig, work: Path) -> None:
        self._keep_all, self._work = config.keep_duplicates, work
        self._index = DigestIndex()
        self._num_read = 0  # units below it are in the index
        self._keys: dict[int, dict[str, str]] = {}

    def mark(self, units: Sequence[int]) -> int:
        """Rewrite the outcomes of these units, all lower ones being marked already; returns how many were marked."""
        if self._keep_all:
            return 0
        count = 0
        for unit in sorted(units):
            table = read_outcomes(self._work, unit)
            marked = self.mark_table(unit, table)
            if marked is not table:
                write_outcomes(self._work, unit, marked)
                count += pc.sum(pc.not_equal(marked["reason"], table["reason"])).as_py()
        return count

    def mark_table(self, unit: int, table: pa.Table, *, gained: Collection[int] | None = None) -> pa.Table:
        """A unit's outcomes with duplicates marked; the very same table when there are none.

        With `gained` only the rows at these positions are looked at, and compared with every picture of the whole
        build: shards are finished then, and what came late is the duplicate. Their unit's outcomes on disk must
        not hold them yet. What is kept is noted at once.
        """
        if self._keep_all:
            return table
        self._read_units(unit if gained is None else num_units(self._work))
        good = np.flatnonzero(np.asarray(pc.equal(table["reason"], ""))).tolist()
        keys, sha256 = (table[name].take(pa.array(good, pa.int64())).to_pylist() for name in ("key", "sha256"))
        words = _digest_words(sha256)
        known = self._index.find(words)
        late = None if gained is None else set(gained)
        in_question = {i for i, at in enumerate(good) if late is None or at in late}
        here = {digest: key for i, (digest, key) in enumerate(zip(sha256, keys, strict=True)) if i not in in_question}
        details: dict[int, str] = {}
        for i in sorted(in_question):
            elsewhere = [v for v in known.get(i, []) if v < unit or (gained is not None and v != unit)]
            twin = self._twin(sha256[i], unit, elsewhere, here)
            if twin is None:
                here[sha256[i]] = keys[i]
            else:
                details[good[i]] = twin
        new = [i for i, at in enumerate(good) if at not in details and unit not in known.get(i, [])]
        self._index.add(words[new], unit)
        self._num_read = max(self._num_read, unit + 1)
        self._keys.pop(unit, None)
        return _rewritten(table, details) if details else table

    def _twin(self, sha256: str, unit: int, elsewhere: list[int], here: dict[str, str]) -> str | None:
        """Says which kept picture has these bytes: the one in the lowest unit; None when there is none."""
        for other in sorted({*elsewhere, unit}):
            key = (here if other == unit else self._kept_keys(other)).get(sha256)
            if key is not None:
                return f"same bytes as {key} of unit {unit_name(other)}"
        return None

    def _kept_keys(self, unit: int) -> dict[str, str]:
        """Key by digest of what a unit keeps."""
        if unit not in self._keys:
            table = self._kept(unit, ["key", "sha256"])
            while len(self._keys) >= _UNITS_AT_HAND:
                self._keys.pop(next(iter(self._keys)))
            self._keys[unit] = dict(zip(table["sha256"].to_pylist(), table["key"].to_pylist(), strict=True))
        return self._keys[unit]

    def _kept(self, unit: int, names: list[str]) -> pa.Table:
        """These columns of a unit's good pictures."""
        try:
            table = pq.read_table(outcomes_path(self._work, unit), columns=[*names, "reason"])
        except (OSError, pa.ArrowInvalid):
            table = read_outcomes(self._work, unit)  # which says what is wrong
        return table.filter(pc.equal(table["reason"], ""))

    def _read_units(self, end: int) -> None:
        """Take units below `end` into the index as they stand."""
        started = time.perf_counter()
        first, self._num_read = self._num_read, max(self._num_read, end)
        for unit in range(first, end):
            self._index.add(_digest_words(self._kept(unit, ["sha256"])["sha256"].to_pylist()), unit)
        if time.perf_counter() - started > _SAY_AFTER_S:
            log.info("read the digests of %d units in %.0f s", end - first, time.perf_counter() - started)


def _rewritten(table: pa.Table, details: dict[int, str]) -> pa.Table:
    """The outcomes with some rejected; their digest and size stay, for the report."""
    changed: dict[str, Any] = {"reason": str(Reason.DUPLICATE_IMAGE), "member": "", "offset": -1, "format": ""}
    for name in ("reason", "detail", "member", "offset", "format"):
        values = table[name].to_pylist()
        for position, detail in details.items():
            values[position] = detail if name == "detail" else changed[name]
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    return table
