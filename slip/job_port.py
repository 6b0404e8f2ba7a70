"""The port at which the ranks of a job meet. No torch: who starts ranks needs it before they load that."""

from __future__ import annotations


def job_port(job: int, step: int = 0) -> int:
    """Where rank 0 of a job's step listens: different for jobs sharing a node.

    Below the range that Linux hands out to outgoing connections (32768 to 60999): of that, any may be taken at any
    moment.
    """
    return 10_000 + (job + 7 * step) % 20_000
