"""The verb `slip launch`: trains as jobs of a Slurm cluster, and looks after them.

In: recipes and options, or status, logs, cancel and the name of a launch. Out: text on standard output and the exit
status. Needs no torch; what jobs run is `slip.launch.task`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from slip.command import run_verb
from slip.launch import watching
from slip.launch.launching import launch
from slip.launch.settings import parse

_VERBS = {"status": watching.run_status, "logs": watching.run_logs, "cancel": watching.run_cancel}


def main(argv: Sequence[str] | None = None) -> int:
    """Launch or look; 0 done, 1 error, 2 usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        if words and words[0] in _VERBS:
            _VERBS[words[0]](words[1:])
            return 0
        status, text = launch(parse(words))
        sys.stdout.write(text)
        return status

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
