"""The verb `slip compare`: several runs on one HTML page.

In: folders or URLs of runs, finished or still going on. Out: one file that needs nothing from anywhere: curves,
evaluations, the settings that differ, where the time went, and why the runs may not be comparable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipeline import store
from pipeline.errors import ConfigError
from slip.command import run_verb
from slip.pages.comparable import Compared, labels, warnings
from slip.pages.compare import Over, render
from slip.pages.run_data import data_facts
from slip.pages.run_files import read_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Compare runs."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")] = ()
    """Folders or URLs of runs."""
    output: str = "compare.html"
    """File or URL of the page."""
    over: Literal["auto", "steps", "samples", "epochs", "hours"] = "auto"
    """What curves go along; auto = steps, or samples where the runs have different global batches."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("no run to show; give folders or URLs that slip train wrote to")
        named = [url.rstrip("/") for url in self.runs]
        if len(set(named)) < len(named):
            raise ConfigError(f"a run is named twice: {' '.join(self.runs)}")


def compare(config: CompareConfig) -> None:
    """Read the runs and write the page."""
    runs = [read_run(url) for url in config.runs]
    compared = [
        Compared(label=label, run=run, data=data_facts(run))
        for label, run in zip(labels(config.runs), runs, strict=True)
    ]
    over: Over = "steps"
    if config.over != "auto":
        over = config.over
    elif len({run.config.optim.global_batch for run in runs}) > 1:
        over = "samples"
    for note in (*warnings(compared), *(note for run in runs for note in run.notes)):
        logger.warning("%s", note)
    store.write_bytes(config.output, render(compared, over).encode())
    sys.stdout.write(f"{config.output}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 0 done, 1 error, 2 usage, 130 interrupted."""

    def work() -> int:
        config = tyro.cli(
            CompareConfig,
            args=list(sys.argv[1:] if argv is None else argv),
            prog="slip compare",
            description=(
                "Show runs side by side on one HTML page: curves of losses, accuracy, learning rate and pace; "
                "evaluations, the best in bold; the settings that differ; where the time went. Says where runs are not "
                "comparable. Runs may still be going on."
            ),
        )
        compare(config)
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
