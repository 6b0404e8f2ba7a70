from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.fetch import fetch_child
from pipeline.fetch.fetched import outcomes_path
from pipeline.fetch.judging import PictureLimits
from pipeline.fetch.lean_writer import LeanWriter
from pipeline.fetch.polite import PoliteSettings
from pipeline.fetch.polite_opener import PoliteDownloader
from pipeline.records import SELECTION_SCHEMA
from pipeline.selection.selection import part_path


def test_img2datasets_downloader_is_replaced_by_a_polite_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    main: Any = types.ModuleType("img2dataset.main")
    main.Downloader = lambda **options: options
    main.download = lambda url_list: given.append(main.Downloader(sample_writer_class=dict, url_list=url_list))
    package = types.ModuleType("img2dataset")
    monkeypatch.setitem(sys.modules, "img2dataset", package)
    monkeypatch.setitem(sys.modules, "img2dataset.main", main)
    settings = {"per_host": 2, "timeout_s": 5.0, "deadline_s": 60.0, "heartbeat": str(tmp_path / "beat")}
    limits = {"min_side": 16, "max_pixels": 10**6, "max_aspect": math.inf, "resize": None, "from_flickr": True}
    # As the arguments come: through a JSON file.
    arguments = json.loads(json.dumps({"img2dataset": {"url_list": "in"}, "polite": settings, "limits": limits}))
    fetch_child.download(arguments)
    (found,) = given
    assert isinstance(found, PoliteDownloader)
    options: Any = found.downloader
    writer = options.pop("sample_writer_class")
    assert options == {"url_list": "in"}
    assert (writer.func, writer.keywords) == (LeanWriter, {"limits": PictureLimits(**limits)})  # type: ignore[arg-type]
    assert found.settings == PoliteSettings(**settings)  # type: ignore[arg-type]


def write_part(work: Path, urls: list[str]) -> None:
    row = dict.fromkeys(SELECTION_SCHEMA.names, "") | {"photo_id": -1, "line": -1, "row": 0}
    rows = [row | {"key": str(i), "url": url, "title_usable": True} for i, url in enumerate(urls)]
    rows = [row | {"description_usable": False} for row in rows]
    part_path(work, 0).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(work, 0))


def test_killing_the_build_ends_the_download(tmp_path: Path) -> None:
    """The server never answers, so without its own watch on the build img2dataset would go on for minutes."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.fetch import fetch, img2dataset_call\n"
        "from pipeline.config import BuildConfig\n"
        "if __name__ == '__main__':\n"
        "    real = img2dataset_call._start\n"
        "    def start(*arguments):\n"
        "        child = real(*arguments)\n"
        "        print(child.pid, flush=True)\n"
        "        return child\n"
        "    img2dataset_call._start = start\n"
        "    settings = BuildConfig(processes=1, timeout_s=600)\n"
        f"    list(fetch.fetch_units(settings, Path({str(tmp_path)!r}), [0]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[4])}
    with socket.create_server(("127.0.0.1", 0)) as server:
        write_part(tmp_path, [f"http://127.0.0.1:{server.getsockname()[1]}/{i}.jpg" for i in range(3)])
        with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as build:
            assert build.stdout is not None
            group = int(build.stdout.readline())
            server.accept()  # img2dataset's workers are at work
            build.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while _exists(group) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _exists(group), "img2dataset goes on without the build"
    assert not outcomes_path(tmp_path, 0).exists()


def _exists(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return False
    return True
