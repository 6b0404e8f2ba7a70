"""One call of img2dataset over a few units: its input, its process, and what can be seen of it from outside.

In come URLs, out come img2dataset's own files in a temporary folder, one shard per unit, unchecked:
`img2dataset_output` checks them, `fetch` decides what is downloaded when. The process itself is `fetch_child`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.errors import InputError, StoreError
from pipeline.fetch.judging import limits_of
from pipeline.fetch.polite import PoliteSettings
from pipeline.records import unit_name

_DISTRIBUTORS = {"spark": "pyspark", "ray": "ray"}
"""For executors that are img2dataset's own; every other one runs it on its machine, in processes."""
_REPOSITORY = Path(__file__).resolve().parents[2]


class _GrowingTar:
    """Counts the pictures in a tar that is still being written, reading only headers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.num_pictures = 0

    def look(self) -> None:
        """Go through the headers that have been added since the last look."""
        try:
            with self.path.open("rb") as file:
                num_bytes = os.fstat(file.fileno()).st_size
                while self.offset + 512 <= num_bytes:
                    file.seek(self.offset)
                    header = file.read(512)
                    size = int(header[124:136].rstrip(b"\0 "), 8)
                    self.num_pictures += header[:100].rstrip(b"\0").endswith(b".jpg")
                    self.offset += 512 + -(-size // 512) * 512
        except (OSError, ValueError):
            return  # gone, or at its end; this is only the display


def check_installed(config: BuildConfig) -> None:
    """Say at once what downloading needs and lacks."""
    if importlib.util.find_spec("img2dataset") is None:
        raise InputError("img2dataset is not installed, and downloading needs it: pip install '.[build]'")
    package = _DISTRIBUTORS.get(config.executor)
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(
            f"--executor {config.executor} needs the package {package}, which is not installed: "
            f"pip install {package} here and on every machine of the cluster, or use --executor here"
        )


def _arguments(config: BuildConfig, folder: Path, num_units: int, most_rows: int) -> dict[str, dict[str, Any]]:
    """What `fetch_child` is told: img2dataset's arguments and those of our opener in its processes."""
    processes = min(config.processes, num_units)
    polite = PoliteSettings(
        per_host=math.ceil(config.per_host / processes),
        timeout_s=config.timeout_s,
        deadline_s=config.deadline_s,
        heartbeat=str(folder / "heartbeat"),
    )
    img2dataset = {
        "url_list": str(folder / "in"),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["unit", "index"],
        "output_folder": str(folder / "out"),
        "output_format": "webdataset",
        "number_sample_per_shard": most_rows,
        "processes_count": processes,
        "thread_count": config.threads,
        "timeout": config.timeout_s,
        "retries": config.retries,
        "distributor": _DISTRIBUTORS.get(config.executor, "multiprocessing"),
        # Bytes pass through as served to our writer: what is a picture and what is not, `judging` decides for all
        # sources alike.
        "disable_all_reencoding": True,
        "extract_exif": False,
        "compute_hash": None,  # our writer notes the digest of what is kept
        "enable_wandb": False,
        # disallowed_header_directives is left at img2dataset's polite default: pictures whose server forbids
        # their use by an X-Robots-Tag header are not taken.
    }
    return {"img2dataset": img2dataset, "polite": asdict(polite), "limits": asdict(limits_of(config))}


def _environment(proxy: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    paths = [str(_REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    # Without these, importing it asks a server on the internet for news.
    environment["NO_ALBUMENTATIONS_UPDATE"] = "1"
    environment["WANDB_MODE"] = "disabled"
    # Spark's workers would take whatever python3 is first on the PATH.
    environment.setdefault("PYSPARK_PYTHON", sys.executable)
    if proxy is not None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment[name] = proxy
        for name in ("no_proxy", "NO_PROXY"):
            environment.pop(name, None)
    return environment


def _start(arguments: Path, log_path: Path, proxy: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "pipeline.fetch.fetch_child", str(os.getpid()), str(arguments)]
    with log_path.open("ab") as output:
        return subprocess.Popen(
            command,
            env=_environment(proxy),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all its workers, and Ctrl-C reaches us alone
        )


class Img2datasetCall:
    """A running img2dataset; use as a context manager, which ends it with all its workers."""

    def __init__(
        self, config: BuildConfig, questions: Mapping[int, pa.Table], *, folder: Path, log_path: Path, proxy: str | None
    ) -> None:
        """`questions`: for each unit a table with columns unit, index and url, not empty."""
        self.output = folder / "out"
        """Where img2dataset writes."""
        self.submitted: set[str] = set()
        """Shards that `finished_shards` has named."""
        self._heartbeat = folder / "heartbeat"
        self._tars: dict[str, _GrowingTar] = {}
        try:
            self._heartbeat.touch()
            (folder / "in").mkdir()
            self.output.mkdir()
            # One file per unit, none longer than a shard: every unit becomes one shard, and says itself which it is.
            for unit, rows in questions.items():
                pq.write_table(rows, folder / "in" / f"{unit_name(unit)}.parquet")
            most_rows = max(rows.num_rows for rows in questions.values())
            arguments = folder / "arguments.json"
            arguments.write_text(json.dumps(_arguments(config, folder, len(questions), most_rows)))
            self._process = _start(arguments, log_path, proxy)
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror or error}; make room, then run again") from error

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def heartbeat(self) -> float:
        """When requests were last answered, as far as img2dataset's processes have told (unix seconds)."""
        try:
            return self._heartbeat.stat().st_mtime
        except OSError:
            return 0.0

    def finished_shards(self) -> list[str]:
        """Names of shards that have become complete since the last question: their statistics are there, whole."""
        shards = []
        for path in sorted(self.output.glob("*_stats.json")):
            shard = path.name.removesuffix("_stats.json")
            if shard in self.submitted:
                continue
            try:
                json.loads(path.read_bytes())
            except ValueError:
                continue  # still being written
            self.submitted.add(shard)
            self._tars.pop(shard, None)
            shards.append(shard)
        return shards

    def growing(self) -> tuple[int, int]:
        """Pictures and bytes in the shards that are not complete yet."""
        for path in self.output.glob("*.tar"):
            if path.stem not in self.submitted:
                self._tars.setdefault(path.stem, _GrowingTar(path)).look()
        return sum(tar.num_pictures for tar in self._tars.values()), sum(tar.offset for tar in self._tars.values())

    def __enter__(self) -> Img2datasetCall:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):  # it has ended, and its workers with it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
