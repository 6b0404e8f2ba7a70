"""The select stage on synthetic metadata: rows per CPU-second and memory, beside the published script's algorithm.

Comes in: nothing but numbers; rows and list are written by yfcc_rows.py. Goes out: a table. Every selection runs in
processes of its own, of which all CPU time is counted; memory is what all of them hold at once, pages that several map
counted once (PSS, the proportional set size of Linux), looked at ten times a second.

    python tests/bench/selection.py --rows 5000000 --folder /tmp/bench

The reference does what the published script does (all lines read into memory and split, the listed ones cleaned and
pickled), written anew. The last table says what the real file would take: 100 million rows behind bzip2.
"""

from __future__ import annotations

import argparse
import bz2
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
REAL_ROWS = 100_000_000
SAMPLE_BYTES = 64 << 20
"""So much of the rows is packed with bzip2 to measure unpacking."""
_WATCH_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one process and those it started took."""

    name: str
    cpu_s: float
    wall_s: float
    peak_mb: float
    """MB = 10^6 bytes."""


def published(rows: Path, listing: Path, work: Path) -> None:
    """The published script's algorithm: all lines in memory, the list as a set, the result pickled at the end."""
    with listing.open() as file:
        listed = {int(line.strip().split("\t")[0]) for line in file.readlines()}
    tag, address = re.compile(r"<a.*?>|</a>|<b>|</b>|<i>|</i>"), re.compile(r"http\S+|www\S+")
    kept = []
    with rows.open() as file:
        for line in file.readlines():
            fields = line.strip().split("\t")
            if int(fields[0]) in listed:
                texts = [address.sub("", tag.sub("", unquote(fields[at]).replace("+", " "))) for at in (8, 9)]
                kept.append((int(fields[0]), *texts))
    work.write_bytes(pickle.dumps(kept))


def selected(rows: Path, listing: Path, variant: str, processes: int, work: Path) -> int:
    """How many rows the select stage keeps."""
    from pipeline.config import BuildConfig
    from pipeline.selection.selection import select

    is_english = variant == "english"
    config = BuildConfig(
        metadata=(str(rows),),
        variant="english" if is_english else "openai",
        subset_list=None if is_english else str(listing),
        output="unused",
        processes=processes,
    )
    return select(config, work).kept


def unpacked(packed: Path) -> int:
    """Bytes of text in a bzip2 file, by the reader the select stage uses."""
    from pipeline.metadata.lines import read_blocks

    return sum(len(block.data) for block in read_blocks(str(packed), what="rows"))


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _pss_mb(pid: int) -> float:
    """Memory of a process and those it started, in MB; what some share counts once."""
    total_kb = 0
    for member in _tree(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total_kb += int(found[1]) if found else 0
    return total_kb * 1024 / 1e6


def measure(name: str, arguments: list[str]) -> Measured:
    """Run this script with other arguments in a process of its own, and watch it."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, __file__, *arguments], env=environment, stdout=subprocess.DEVNULL)
    peak_mb = 0.0
    while child.poll() is None:
        peak_mb = max(peak_mb, _pss_mb(child.pid))
        time.sleep(_WATCH_INTERVAL_S)
    if child.returncode:
        sys.exit(f"{name}: ended with code {child.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(name=name, cpu_s=cpu_s, wall_s=time.perf_counter() - started, peak_mb=peak_mb)


def make_rows(folder: Path, num_rows: int) -> tuple[Path, Path]:
    """Rows and list, written unless they are there."""
    rows, listing = folder / f"rows-{num_rows}.tsv", folder / f"list-{num_rows}.tsv"
    if not (rows.exists() and listing.exists()):
        command = [sys.executable, str(Path(__file__).with_name("yfcc_rows.py")), "--rows", str(num_rows)]
        parts = [path.with_suffix(".part") for path in (rows, listing)]
        subprocess.run([*command, "--out", str(parts[0]), "--list", str(parts[1])], check=True)
        for part, path in zip(parts, (rows, listing), strict=True):
            part.rename(path)
    return rows, listing


def compare(folder: Path, num_rows: int, processes: int) -> str:
    """Measure everything once, one after the other; the tables."""
    rows, listing = make_rows(folder, num_rows)
    work = folder / "work"  # a folder, of the reference a file
    results = []
    cases = [("published", 1), *((variant, count) for variant in ("openai", "english") for count in (1, processes))]
    for case, count in cases:
        shutil.rmtree(work, ignore_errors=True)
        if case != "published":
            work.unlink(missing_ok=True)
        name = f"{case}, {count} process{'es' if count > 1 else ''}"
        results.append(measure(name, ["--case", case, str(rows), str(listing), str(count), str(work)]))
    reference = results[0]
    lines = [
        f"{num_rows:,} rows, {rows.stat().st_size / 1e6:,.0f} MB",
        f"{'':24}{'k rows/CPU-s':>14}{'ratio':>8}{'wall s':>8}{'peak MB':>9}",
    ]
    for result in results:
        rate = num_rows / result.cpu_s
        ratio = reference.cpu_s / result.cpu_s
        lines.append(f"{result.name:24}{rate / 1000:14.1f}{ratio:8.2f}{result.wall_s:8.1f}{result.peak_mb:9.0f}")
    packed = folder / "rows.tsv.bz2"
    with rows.open("rb") as file:
        text = file.read(SAMPLE_BYTES)
    packed.write_bytes(bz2.compress(text))
    unpacking = measure("bzip2", ["--case", "bzip2", str(packed), "", "1", ""])
    empty = measure("start", ["--case", "start", "", "", "1", ""])
    mb_per_s = len(text) / 1e6 / (unpacking.cpu_s - empty.cpu_s)
    unpack_s = rows.stat().st_size / num_rows * REAL_ROWS / 1e6 / mb_per_s
    lines += [f"bzip2: {mb_per_s:.1f} MB of text per CPU-second", f"{REAL_ROWS:,} rows behind bzip2, CPU-minutes:"]
    for result in results:
        lines.append(f"{result.name:24}{(result.cpu_s / num_rows * REAL_ROWS + unpack_s) / 60:14.0f}")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments; measure, or be what is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/yfcc-bench"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)  # name, rows, list, processes, work folder
    arguments = parser.parse_args()
    if arguments.case is None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(compare(arguments.folder, arguments.rows, arguments.processes) + "\n")
        return
    case, rows, listing, processes, work = arguments.case
    if case == "published":
        published(Path(rows), Path(listing), Path(work))
    elif case == "bzip2":
        unpacked(Path(rows))
    elif case == "start":
        import pipeline.metadata.lines  # noqa: F401
    else:
        selected(Path(rows), Path(listing), case, int(processes), Path(work))


if __name__ == "__main__":
    main()
