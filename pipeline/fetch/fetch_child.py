"""The process in which img2dataset runs: `python -m pipeline.fetch.fetch_child PARENT_PID ARGUMENTS.json`.

It is a process of its own because img2dataset talks on stdout, takes over signals and starts a pool of
workers; here all of that ends with the build, whatever ends the build. `pipeline.fetch.fetch` starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.fetch.judging import PictureLimits
from pipeline.fetch.lean_writer import LeanWriter
from pipeline.fetch.polite import PoliteSettings
from pipeline.fetch.polite_opener import PoliteDownloader

_WATCH_INTERVAL_S = 0.5

if __name__ in {"__main__", "__mp_main__"}:  # this process, and the workers it spawns, which load this file first
    # webdataset, which img2dataset writes tars with, loads torch when there is one, for nothing that is used here.
    # Without it each of the processes starts in 2.4 instead of 5.1 seconds of CPU time.
    sys.modules["torch"] = None  # type: ignore[assignment]


def follow_parent(parent_pid: int, *, whole_group: bool = False) -> None:
    """From now on end this process (or its whole process group) as soon as its parent is gone.

    A parent killed with SIGKILL cannot end its children itself, and children that go on would write into
    folders which the next run believes to be its own.
    """

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_WATCH_INTERVAL_S)
        if whole_group:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def download(arguments: dict[str, Any]) -> None:
    """Run img2dataset with `arguments["img2dataset"]`, asking politely ("polite") and keeping good pictures ("limits").

    What takes its parts' place is pickled with the work, so it reaches the processes of all its distributors.
    """
    # The package's attribute of this name is a function.
    img2dataset: Any = importlib.import_module("img2dataset.main")
    settings, downloader = PoliteSettings(**arguments["polite"]), img2dataset.Downloader

    writer = partial(LeanWriter, limits=PictureLimits(**arguments["limits"]))

    def polite_downloader(**options: Any) -> PoliteDownloader:
        lean = downloader(**{**options, "sample_writer_class": writer})
        return PoliteDownloader(downloader=lean, settings=settings)

    img2dataset.Downloader = polite_downloader
    img2dataset.download(**arguments["img2dataset"])


def main(arguments: list[str]) -> int:
    """Run one download as the JSON file says."""
    parent_pid, path = int(arguments[0]), Path(arguments[1])
    follow_parent(parent_pid, whole_group=True)
    download(json.loads(path.read_bytes()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
