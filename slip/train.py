"""`python -m slip.train [RECIPE] [options]`, the same as `slip train`: reads the settings, sets up logging, trains.

Without arguments the recipe `demo` runs on the embedded sample. Torch is imported after the settings are known to
be good, so help and mistakes are answered at once; the training itself is `slip.loop.train`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import closing

import tyro

from pipeline import store
from pipeline.errors import ManifestError, StoreError, YfccError
from slip.command import AGAIN, BUG, UNAVAILABLE, run_verb
from slip.config import TrainConfig
from slip.job_note import NoteWriter
from slip.recipes import DEFAULT_RECIPE, recipe, recipes
from slip.stop_signal import StopSignal

logger = logging.getLogger(__name__)


def parse(argv: Sequence[str]) -> TrainConfig:
    """Settings from a command line: a recipe's name (default `demo`), then options that change it."""
    words = list(argv)
    name = words.pop(0) if words and not words[0].startswith("-") else DEFAULT_RECIPE
    return tyro.cli(
        TrainConfig,
        default=recipe(name),
        args=words,
        prog="slip train [RECIPE]",
        description=(
            "Train CLIP, SimCLR or SLIP on sealed shards. Run the same command again to resume. "
            f"Defaults below are those of recipe {name}. Recipes: {', '.join(recipes())}. "
            "A name's ending is its unit: _s seconds; steps are optimizer steps on the global batch."
        ),
    )


def check_manifests(config: TrainConfig) -> None:
    """Say at once that there is nothing to train on, and how to get it (ManifestError)."""
    # Not at the top: --help needs none of what comes with it.
    from slip.data.opening import is_pattern

    for url in (*config.data.manifest, *config.data.ssl_manifest):
        manifest = url if url.endswith(".json") else store.join(url, "manifest.json")
        if not is_pattern(url) and not store.exists(manifest):
            raise ManifestError(
                f"{manifest}: no manifest there; build the embedded sample with `python pipeline/build_yfcc15m.py`, "
                "name the one of your shards with --data.manifest, or make one for tars that have none with "
                "`slip index`"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Train. The exit status is

    0 when the run is finished; 75 when a signal stopped it before that, after a checkpoint (rank 0; other ranks 0);
    1 an error that is explained, 2 settings that cannot be, 69 a store or a rank that is gone, 70 an error nobody
    foresaw, 130 interrupted.
    """
    # Read when torch is loaded. Decoding threads share the cores with torch's, which would spin while they wait for
    # each other: the start and ten steps of the demonstration took 25.2 instead of 17.9 CPU-seconds on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # As slip.world finds it, which cannot be asked before torch is imported.
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))

    def work(stop: StopSignal) -> int:
        config = parse(sys.argv[1:] if argv is None else argv)
        check_manifests(config)
        with closing(NoteWriter(config.output, enabled=rank == 0)) as note:
            # Takes seconds, hence not at the top.
            from slip.loop import train

            result = train(config, stop=stop, note=note)
        return AGAIN if result.stopped and rank == 0 else 0

    def guarded() -> int:
        # First of all: a signal that comes while torch is being imported would end the process.
        with StopSignal() as stop:
            try:
                return work(stop)
            except StoreError as error:
                logger.error("%s", error)
                return UNAVAILABLE
            except (YfccError, BrokenPipeError):
                raise
            except Exception:
                logger.exception("unexpected error")
                return BUG

    go_on = "interrupted; run the same command again to go on from the newest checkpoint"
    return run_verb(guarded, rank=rank, interrupted=go_on)


if __name__ == "__main__":
    sys.exit(main())
