"""What a task of a Slurm array does: fetch or seal some units, and nothing else.

In come the driver's settings and a few units; out go their files in the shared work folder, by which the driver
sees that they are done. What is selected, which units there are and what is a duplicate is the driver's part.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pipeline.config import BuildConfig
from pipeline.errors import YfccError
from pipeline.executors.worker_pool import map_in_order
from pipeline.fetch.fetch import fetch_units
from pipeline.lease import check_holder
from pipeline.seal.seal import seal_unit

log = logging.getLogger(__name__)

Kind = Literal["fetch", "seal"]


def _seal_one(config: BuildConfig, work: Path, unit: int) -> int:
    check_holder(config.output, work)  # each time: the driver may be gone and the output another's
    seal_unit(config, work, unit)
    return unit


def run(kind: Kind, config: BuildConfig, work: Path, units: Sequence[int], proxy: str | None) -> None:
    """Make the units, with as many processes as the task has cores; those that are made already are left alone."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    config = replace(config, executor="here", processes=config.slurm.cpus_per_task)
    if kind == "fetch":
        done = iter(fetch_units(config, work, units, proxy=proxy))
    else:
        done = map_in_order(partial(_seal_one, config, work), units, processes=config.processes)
    try:
        for unit in done:
            log.info("%s: unit %d is done", kind, unit)
    except YfccError as error:  # the driver shows the log's last lines, so that is where the message belongs
        log.error("%s", error)
        sys.exit(error.exit_code)
