"""One call of img2dataset over a few units: its input, its process, and what can be seen of it from outside.

In come selected rows, out come img2dataset's own files in a temporary folder, one shard per unit, unchecked:
`fetched` checks them, `fetch` decides what is downloaded when. The process itself is `fetch_child`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import BuildConfig
from pipeline.errors import StoreError
from pipeline.records import unit_name
from pipeline.selection import part_path

_REPOSITORY = Path(__file__).resolve().parent.parent


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


def _img2dataset_arguments(
    config: BuildConfig, inputs: Path, output: Path, num_units: int, most_rows: int
) -> dict[str, Any]:
    return {
        "url_list": str(inputs),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["unit", "position"],
        "output_folder": str(output),
        "output_format": "webdataset",
        "number_sample_per_shard": most_rows,
        "processes_count": min(config.processes, num_units),
        "thread_count": config.threads,
        "timeout": config.timeout_s,
        "retries": config.retries,
        # Bytes pass through as served, and img2dataset decodes nothing (a 30,000 x 30,000 header costs it
        # nothing): what is a picture and what is not, `sources` decides for all sources alike.
        "disable_all_reencoding": True,
        "extract_exif": False,
        "compute_hash": "sha256",
        "enable_wandb": False,
        # disallowed_header_directives is left at img2dataset's polite default: pictures whose server forbids
        # their use by an X-Robots-Tag header are not taken.
    }


def _environment(proxy: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    paths = [str(_REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    # Without these, importing it asks a server on the internet for news.
    environment["NO_ALBUMENTATIONS_UPDATE"] = "1"
    environment["WANDB_MODE"] = "disabled"
    if proxy is not None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment[name] = proxy
        for name in ("no_proxy", "NO_PROXY"):
            environment.pop(name, None)
    return environment


def _start(arguments: Path, log_path: Path, proxy: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "pipeline.fetch_child", str(os.getpid()), str(arguments)]
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
        self, config: BuildConfig, work: Path, units: Sequence[int], *, folder: Path, log_path: Path, proxy: str | None
    ) -> None:
        self.output = folder / "out"
        """Where img2dataset writes."""
        self.submitted: set[str] = set()
        """Shards that `finished_shards` has named."""
        self._tars: dict[str, _GrowingTar] = {}
        try:
            arguments = self._write_input(config, work, units, folder)
            self._process = _start(arguments, log_path, proxy)
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror or error}; make room, then run again") from error

    def _write_input(self, config: BuildConfig, work: Path, units: Sequence[int], folder: Path) -> Path:
        inputs = folder / "in"
        inputs.mkdir()
        self.output.mkdir()
        most_rows = 1
        for unit in units:
            urls = pq.read_table(part_path(work, unit), columns=["url"])
            rows = urls.append_column("position", pa.array(range(urls.num_rows), pa.int64()))
            rows = rows.append_column("unit", pa.array([unit] * urls.num_rows, pa.int64()))
            # One file per unit, none longer than a shard: every unit becomes one shard, and says itself which it is.
            pq.write_table(rows, inputs / f"{unit_name(unit)}.parquet")
            most_rows = max(most_rows, urls.num_rows)
        arguments = folder / "arguments.json"
        arguments.write_text(json.dumps(_img2dataset_arguments(config, inputs, self.output, len(units), most_rows)))
        return arguments

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

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
