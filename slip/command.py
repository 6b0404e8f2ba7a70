"""What every verb does around its work: a log on standard error, errors as one line, and the exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from pipeline.errors import ConfigError, YfccError

logger = logging.getLogger(__name__)


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
        return 130
