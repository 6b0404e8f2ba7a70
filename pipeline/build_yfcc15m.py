#!/usr/bin/env python3
"""Build YFCC15M: metadata rows in, sealed WebDataset shards out. `--help` lists the settings.

Works from a checkout without installation. This file only parses, sets up logging and turns errors into exit
codes (0 done, 1 error, 2 usage, 3 more rejections than allowed, 130 interrupted); `pipeline.build` does the work.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Run as a script, Python has put this file's folder first on the path, where modules of ours could stand in for
# others of the same name. The repository's root belongs there.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import logging
import signal

log = logging.getLogger("pipeline.build_yfcc15m")

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the build with these arguments (default: the command line's) and return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        import tyro

        from pipeline.build import build
        from pipeline.config import BuildConfig
        from pipeline.errors import YfccError
    except ModuleNotFoundError as error:
        log.error("package %s is not installed; from the checkout run: pip install '.[build]'", error.name)
        return EXIT_ERROR
    try:
        build(tyro.cli(BuildConfig, args=argv, prog="build_yfcc15m.py"))
    except YfccError as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted; run the same command again to resume")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    # What ends a Slurm job ends the build like Ctrl-C: its array tasks are cancelled, the output is let go of.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
