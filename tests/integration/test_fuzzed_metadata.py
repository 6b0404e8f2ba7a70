"""Hundreds of thousands of damaged lines through the select stage: no crash, and every line is accounted for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.config import BuildConfig
from pipeline.records import Reason
from pipeline.sample.sample import make_sample
from pipeline.selection.selection import select
from tests.thorough import times

NUM_LINES = times(1_000_000, 200_000)
NASTY = (
    b"%",
    b"%2",
    b"%ZZ",
    b"%00",
    b"%0A",
    b"%09",
    b"%C3",
    b"%ED%A0%80",
    b"%F0%9F%98%80",
    b"+" * 50,
    b"%3Ca+href%3D%22",
    b"%26amp%3Blt%3B",
    b"\t",
    b"\0",
    b"\r",
    b"\xff\xfe",
    b"<" * 300,
    b"www.",
    b"9" * 30,
)


def mutated(line: bytes, random_: random.Random) -> bytes:
    """One to three faults: bytes put in, taken out or replaced, fields swapped or lost."""
    for _ in range(random_.randint(1, 3)):
        at = random_.randrange(len(line) + 1)
        kind = random_.random()
        if kind < 0.4:
            line = line[:at] + random_.choice(NASTY) + line[at:]
        elif kind < 0.6:
            line = line[:at] + line[at + random_.randint(1, 40) :]
        elif kind < 0.8:
            line = line[:at] + random_.randbytes(random_.randint(1, 4)).replace(b"\n", b"n") + line[at + 2 :]
        else:
            fields = line.split(b"\t")
            fields[random_.randrange(len(fields))] = random_.choice(fields)
            line = b"\t".join(fields)
    return line


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The file and its number of lines."""
    folder = tmp_path_factory.mktemp("fuzz")
    rows = make_sample(folder / "sample", num_rows=300, num_heldout=1).metadata.read_bytes().splitlines()
    columns = [row.split(b"\t") for row in rows]
    random_ = random.Random(7)
    path = folder / "rows.tsv"
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in rows)
        for number in range(NUM_LINES):
            row = list(random_.choice(columns))
            row[0], row[1] = b"%d" % (1000 + number), b"%d" % (10**9 + number)
            file.write(mutated(b"\t".join(row), random_) + b"\n")
    return path, NUM_LINES + len(rows)


def test_every_fuzzed_line_is_counted(fuzzed: tuple[Path, int], tmp_path: Path) -> None:
    path, num_lines = fuzzed
    config = BuildConfig(metadata=(str(path),), variant="english", output=str(tmp_path / "out"), processes=2)
    funnel = select(config, tmp_path / "work")
    assert funnel.rows == num_lines
    assert funnel.kept + sum(funnel.rejected.values()) == num_lines
    assert funnel.rejected[Reason.MALFORMED_ROW] > 50_000
    assert funnel.kept > 50_000
