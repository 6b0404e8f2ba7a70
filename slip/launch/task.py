"""What is submitted: one rank of one run, as a callable that submitit pickles by name and calls in every process.

In: the arguments of `slip train` and the folder that relative paths start from. Out: the exit status of the process.
That a job begins again is decided by the batch script (`slurm/job.sh`), which sees that status.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slip.job_port import job_port


def _export_local_ranks() -> None:
    """Tell `slip.world` which rank this is: under the local executor no launcher does."""
    from submitit.helpers import TorchDistributedEnvironment

    found = TorchDistributedEnvironment()
    # All ranks are here, and a machine's own name need not resolve.
    found.master_addr = "127.0.0.1"
    if "MASTER_PORT" not in os.environ:
        # Submitit's own choice may be a port that Linux has just handed out to a connection.
        found.master_port = job_port(int(os.environ["SUBMITIT_LOCAL_JOB_ID"]))
    # All GPUs of the job stay visible: slip.world takes the one numbered like its local rank.
    found.export(set_cuda_visible_devices=False, overwrite=True)


def _remove_torn_result() -> None:
    """Remove what a rank left that was killed while submitit wrote its result: it would refuse to write the next."""
    from submitit import JobEnvironment

    Path(f"{JobEnvironment().paths.result_pickle}.save_tmp").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Train one run; every rank calls it."""

    arguments: tuple[str, ...]
    """Of `slip train`."""
    folder: str
    """Working folder."""

    def __call__(self) -> None:
        """Run this rank; any status but 0 ends the process with it."""
        # Takes seconds, hence not where tasks are made.
        from slip import train

        os.chdir(self.folder)
        executor = os.environ.get("SUBMITIT_EXECUTOR")
        if executor is not None:
            _remove_torn_result()
        if executor == "local":
            _export_local_ranks()
        status = train.main(list(self.arguments))
        if status != 0:
            # Not an exception to submitit, so it writes no result: a run that was stopped is not done.
            sys.exit(status)

    def __submitit_checkpoint__(self) -> Any:
        """What is submitted again: the same, as training finds its newest checkpoint by itself.

        Called only when a signal comes before slip.train has its own handlers, which it installs first of all.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    # Submitit 1.5 calls __submitit_checkpoint__, but only where there is an attribute of its older protocol's name:
    # core/job_environment.py looks for "checkpoint", and without it a job that is told of its time limit is an error.
    checkpoint = __submitit_checkpoint__
