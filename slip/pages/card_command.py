"""The verb `slip card`: a run's model card.

In: the folder or URL of a run, finished or still going on. Out: one Markdown file, in the form of the Hugging Face hub,
beside the run's other files or where it is asked for.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from pipeline import store
from pipeline.errors import ConfigError
from slip.command import run_verb
from slip.pages.card import render
from slip.pages.run_data import data_facts
from slip.pages.run_files import read_run

logger = logging.getLogger(__name__)

FILE = "MODEL_CARD.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig:
    """Write the model card of a run."""

    run: tyro.conf.Positional[str]
    """Folder or URL of a run."""
    output: str | None = None
    """File or URL of the card. Default: MODEL_CARD.md in the run's folder."""
    name: str | None = None
    """Name of the model. Default: that of the run's folder."""
    license: str | None = None
    """Licence of the weights as the Hugging Face hub names it, e.g. mit, cc-by-nc-4.0. None: the card names none."""

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch(r"[A-Za-z0-9.+-]+", self.license):
            raise ConfigError(f"--license is {self.license!r}; give the hub's short name of it, e.g. mit or cc-by-4.0")
        if self.name is not None and (not self.name.strip() or "\n" in self.name):
            raise ConfigError(f"--name is {self.name!r}; it must be one line with something in it")


def write_card(config: CardConfig) -> None:
    """Read the run and write its card."""
    run = read_run(config.run)
    for note in run.notes:
        logger.warning("%s", note)
    data = data_facts(run)
    if data.digest is None:
        logger.warning("the card says that the digest of the data is unknown: %s", data.source)
    output = config.output or store.join(config.run, FILE)
    text = render(run, data, name=config.name or run.name, license_id=config.license)
    store.write_bytes(output, text.encode())
    sys.stdout.write(f"{output}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write it; 0 done, 1 error, 2 usage, 130 interrupted."""

    def work() -> int:
        config = tyro.cli(
            CardConfig,
            args=list(sys.argv[1:] if argv is None else argv),
            prog="slip card",
            description=(
                "Write the model card of a run in Markdown: what it is, its data and their digest, the recipe, curves, "
                "evaluations, how to load it, and what nobody looked at. Evaluations are those of slip evaluate, so "
                "run that first."
            ),
        )
        write_card(config)
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
