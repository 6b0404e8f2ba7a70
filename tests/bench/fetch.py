"""How fast the fetch stage is compared with img2dataset alone: same URLs, same processes and threads, turn by turn.

    python tests/bench/fetch.py --photos FOLDER_OF_JPEGS

The photographs are reduced to about 50 kB (500 pixels, as Flickr serves them) and served by
tests/faults/flickr_stand_in.py on this machine, each after --latency-s as from a server far away. Our stage downloads,
decodes and checks every picture and writes the units; img2dataset alone downloads and writes its tars. Time is counted
from the first request to the last file, so without starting (at the real size a call has 80,000 rows). CPU time is
that of all processes but the server's, less that of runs over a few rows: take it as a rough figure. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.config import BuildConfig  # noqa: E402
from pipeline.fetch.fetch import fetch_units  # noqa: E402
from pipeline.fetch.fetched import outcomes_path, read_outcomes  # noqa: E402
from pipeline.records import SELECTION_SCHEMA  # noqa: E402
from pipeline.selection.selection import part_path  # noqa: E402

LONGER_SIDE = 500


def reduce_photos(source: Path, target: Path) -> float:
    """Write the photographs as Flickr would serve them; returns their mean size in kB."""
    sizes = []
    for path in sorted(source.iterdir()):
        if path.suffix.lower() not in {".jpg", ".jpeg"}:
            continue
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82)
        (target / f"{path.stem}.jpg").write_bytes(out.getvalue())
        sizes.append(len(out.getvalue()))
    return statistics.mean(sizes) / 1000


def write_selection(work: Path, rows: int, units: int) -> None:
    """Rows with URLs like Flickr's, in equal units."""
    part_path(work, 0).parent.mkdir(parents=True)
    empty = dict.fromkeys(SELECTION_SCHEMA.names, "") | {"line": -1, "title_usable": True, "description_usable": True}
    for unit in range(units):
        numbers = range(unit * rows // units, (unit + 1) * rows // units)
        table = [
            empty
            | {"key": str(i), "row": i, "photo_id": i, "url": f"http://farm8.staticflickr.com/7205/{i}_df7747990d.jpg"}
            for i in numbers
        ]
        pq.write_table(pa.Table.from_pylist(table, schema=SELECTION_SCHEMA), part_path(work, unit))


@contextmanager
def stand_in(photos: Path, args: argparse.Namespace) -> Iterator[str]:
    """The server; gives its address."""
    command = [sys.executable, str(ROOT / "tests/faults/flickr_stand_in.py"), f"--photos={photos}", "--port=0"]
    command += [f"--latency-s={args.latency_s}", *args.fault]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.kill()


def run_ours(work: Path, args: argparse.Namespace) -> None:
    """The stage as the build runs it."""
    rows_per_unit = -(-args.rows // args.units)
    config = BuildConfig(
        output=str(work / "out"), processes=args.processes, threads=args.threads, samples_per_shard=rows_per_unit
    )
    for _ in fetch_units(config, work, range(args.units), proxy=args.proxy):
        pass


def run_alone(work: Path, args: argparse.Namespace) -> None:
    """img2dataset by itself, told the same."""
    import img2dataset

    (work / "in").mkdir()
    for unit in range(args.units):
        pq.write_table(pq.read_table(part_path(work, unit), columns=["url"]), work / "in" / f"{unit:05d}.parquet")
    img2dataset.download(
        url_list=str(work / "in"),
        input_format="parquet",
        output_folder=str(work / "out"),
        output_format="webdataset",
        number_sample_per_shard=-(-args.rows // args.units),
        processes_count=min(args.processes, args.units),
        thread_count=args.threads,
        timeout=15,
        retries=3,
        disable_all_reencoding=True,
        extract_exif=False,
        compute_hash="sha256",
    )


def adopt_orphans() -> None:
    """Have processes whose parent is killed become this one's, so that their CPU time is counted (Linux)."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise SystemExit("prctl failed: CPU time of processes that are killed could not be counted")


def reap() -> None:
    """Wait for those that have been killed; others (multiprocessing's tracker) end only after this process."""
    time.sleep(1.0)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def result(work: Path, contender: str, units: int) -> tuple[int, float]:
    """Good pictures a contender has left, and when it was done."""
    if contender == "ours":
        pictures = sum(read_outcomes(work, unit)["reason"].to_pylist().count("") for unit in range(units))
        files = [outcomes_path(work, unit) for unit in range(units)]
    else:
        files = list((work / "out").glob("*_stats.json"))
        pictures = sum(json.loads(path.read_bytes())["successes"] for path in files)
    return pictures, max(path.stat().st_mtime for path in files)


def measure(contender: str, proxy: str, args: argparse.Namespace, rows: int) -> dict[str, float]:
    """One run of one contender as a process of its own."""
    with urllib.request.urlopen(f"{proxy}/_reset"):
        pass
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        work = Path(name)
        write_selection(work, rows, args.units)
        command = [sys.executable, __file__, *sys.argv[1:], "--contender", contender, "--proxy", proxy]
        environment = {**os.environ, "http_proxy": proxy, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        with (work / "log").open("wb") as log:
            process = subprocess.Popen([*command, "--work", name], env=environment, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit((work / "log").read_text())
        with urllib.request.urlopen(f"{proxy}/_stats") as answer:
            first_unix = json.loads(answer.read())["first_unix"]
        pictures, done_unix = result(work, contender, args.units)
        return {"pictures": pictures, "seconds": done_unix - first_unix, "cpu_s": usage.ru_utime + usage.ru_stime}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=None, help="for temporary files")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-s", type=float, default=0.1, help="of the server, for every answer")
    parser.add_argument("--fault", action="append", default=[], help="passed to the stand-in, for example --dead=0.05")
    for hidden in ("--contender", "--proxy", "--work"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        adopt_orphans()
        {"ours": run_ours, "alone": run_alone}[args.contender](Path(args.work), args)
        return reap()
    found: dict[str, list[dict[str, float]]] = {"alone": [], "ours": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as photos:
        mean_kb = reduce_photos(args.photos, Path(photos))
        with stand_in(Path(photos), args) as proxy:
            # Starting takes more CPU time than thousands of pictures, and varies: the median of several is taken off.
            starts = {name: [measure(name, proxy, args, 2 * args.units) for _ in range(args.rounds)] for name in found}
            start_cpu_s = {name: statistics.median(run["cpu_s"] for run in runs) for name, runs in starts.items()}
            for number in range(args.rounds):
                for contender in ("alone", "ours") if number % 2 else ("ours", "alone"):
                    run = measure(contender, proxy, args, args.rows)
                    run["cpu_s"] -= start_cpu_s[contender]
                    found[contender].append(run)
                    rate, cpu_ms = run["pictures"] / run["seconds"], 1000 * run["cpu_s"] / run["pictures"]
                    print(f"round {number}: {contender:5} {rate:7.1f} pictures/s {cpu_ms:6.2f} CPU-ms each", flush=True)
    print(json.dumps(summary(found, args) | {"mean_kb": round(mean_kb, 1)}))


def summary(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds."""

    def median(contender: str, name: str) -> float:
        return statistics.median(run[name] / run["pictures"] for run in found[contender])

    ratios = [
        (ours["pictures"] / ours["seconds"]) / (alone["pictures"] / alone["seconds"])
        for ours, alone in zip(found["ours"], found["alone"], strict=True)
    ]
    settings = {name: getattr(args, name) for name in ("rows", "units", "processes", "threads", "rounds", "latency_s")}
    rates = {f"{contender}_pictures_per_s": round(1 / median(contender, "seconds"), 1) for contender in found}
    cpu = {f"{contender}_cpu_ms_per_picture": round(1000 * median(contender, "cpu_s"), 2) for contender in found}
    ratio = {"rate_ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios]}
    return settings | rates | cpu | ratio


if __name__ == "__main__":
    main()
