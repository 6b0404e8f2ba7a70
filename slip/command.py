"""What every verb does around its work: a log on standard error, errors as one line, and the exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from pipeline.errors import ConfigError, YfccError

logger = logging.getLogger(__name__)

AGAIN = 75
"""Exit status of a run that a signal stopped before its end: the same command goes on from there. (EX_TEMPFAIL.)"""
UNAVAILABLE = 69
"""Exit status when something that may come back did not answer: a store, another rank. (EX_UNAVAILABLE.)"""
BUG = 70
"""Exit status of an error that nobody foresaw; its traceback is in the log. (EX_SOFTWARE.)"""
INTERRUPTED = 130


def run_verb(work: Callable[[], int], *, rank: int | None = None, interrupted: str = "interrupted") -> int:
    """The exit status of `work`, which returns 0 or 1; 2 when settings cannot be (ConfigError), 130 when interrupted.

    Rank 0 says what happens, other ranks only what is wrong; `rank` is None where there are none.
    """
    who = "" if rank is None else f" rank {rank}"
    logging.basicConfig(
        level=logging.WARNING if rank else logging.INFO,
        format=f"%(asctime)s %(levelname)s{who}: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    try:
        return work()
    except ConfigError as error:
        logger.error("%s (see --help)", error)
        return error.exit_code
    except YfccError as error:
        logger.error("%s", error)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`). Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        logger.error("%s", interrupted)
        return INTERRUPTED
