"""Decides, when the ranks of a batch job have ended, whether the job begins again.

In: the exit status of srun, what Slurm says of the job, the job's note (`slip.job_note`) and the failures the run has
had before. Out: a line for the log, the failure noted in OUTPUT/failures.jsonl, and the exit status AGAIN when the job
is to be requeued, which slurm/job.sh then does. Torch is not needed.

A run that a signal stopped (the time limit, a preemption, scancel --signal) has written a checkpoint and goes on from
there. A run that failed goes on from its newest checkpoint; one that fails a second time in the same step ends.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import tyro

from pipeline import store
from pipeline.errors import InputError, YfccError
from slip.command import AGAIN, INTERRUPTED, run_verb
from slip.job_note import JobNote, read_note

logger = logging.getLogger(__name__)

FILE = "failures.jsonl"
MOST_FAILURES = 3
"""Failures of a job without a new checkpoint in between, in whatever steps, after which it ends."""
MOST_BLIND_RESTARTS = 5
"""A job whose ranks could not even be started begins again while it has not done so more often, for any reason."""
_SETTINGS = 2
# 128 + number is how shells, srun among them, report a process that was ended by a signal.
_ENDED_BY_STOP_SIGNAL = {128 + signal.SIGTERM, 128 + signal.SIGUSR2}
# "" when Slurm did not answer; SIGNALING while it hands on a signal, as the one before the time limit.
_RUNNING = {"", "RUNNING", "SIGNALING", "CONFIGURING", "RESIZING", "STOPPED", "SUSPENDED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What `scontrol show job -o` says of a job."""

    state: str = ""
    """Slurm's word, as RUNNING; "" when it did not answer."""
    requeue: bool = True
    """Whether the job may begin again (sbatch --requeue)."""
    restarts: int = 0
    """How often the job has begun again, for whatever reason."""
    over_limit: bool = False
    """Whether Slurm is ending it because its time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One line of failures.jsonl."""

    job: str
    """Slurm's number of the job: it stays the same when the job begins again."""
    step: int
    """Steps that were done when it failed; -1 when the run had not begun."""
    checkpoint: int
    """Steps of the newest checkpoint then; -1 when there was none."""
    status: int
    unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether the job begins again, why, and the failure to note, if it was one."""

    again: bool
    why: str
    failed: bool = False


def read_facts(text: str) -> JobFacts:
    """The facts in a line of `scontrol show job -o`; what is missing keeps its default."""
    found = dict(re.findall(r"(?:^|\s)(JobState|Requeue|Reason|Restarts)=(\S+)", text))
    return JobFacts(
        state=found.get("JobState", ""),
        requeue=found.get("Requeue", "1") != "0",
        restarts=int(found.get("Restarts", "0")),
        over_limit=found.get("Reason") == "TimeLimit",
    )


def _was_stopped(status: int, facts: JobFacts) -> bool:
    # Ended by the signal itself, a run had not begun to listen, and lost nothing; unless its time was up for good.
    return status == AGAIN or (status in _ENDED_BY_STOP_SIGNAL and not facts.over_limit)


def decide(
    status: int, facts: JobFacts, note: JobNote | None, *, job: str, checkpoint: int, before: Sequence[Failure]
) -> Decision:
    """Whether the job begins again after its ranks ended with `status`.

    Args:
        checkpoint: steps of the run's newest checkpoint, -1 without one.
        before: failures of the run so far, those of other jobs among them, which do not count.
    """
    if status == 0:
        return Decision(again=False, why="done")
    if facts.state not in _RUNNING and not facts.over_limit:
        return Decision(again=False, why=f"the job was ended or requeued from outside: it is {facts.state}")
    if not facts.requeue:
        return Decision(again=False, why="the job may not begin again (sbatch --no-requeue); submit it again to go on")
    if _was_stopped(status, facts):
        return Decision(
            again=True, why="stopped by a signal; the job begins again and goes on from its newest checkpoint"
        )
    if status in (1, _SETTINGS, INTERRUPTED):
        return Decision(
            again=False, why=f"exit status {status}: the reason is in the log above; the job does not begin again"
        )
    if note is None:
        # srun could not start the ranks: a node that is lost, and not known to be so yet.
        again = facts.restarts < MOST_BLIND_RESTARTS
        why = f"exit status {status}, and no rank had read its settings; the job {'begins again' if again else 'ends'}"
        return Decision(again=again, why=why)
    where = "before its first step" if note.step < 0 else f"in step {note.step + 1}"
    what = f"failed {where} with exit status {status}"
    if facts.over_limit:
        what = f"was ended by the time limit {where}, before it could write a checkpoint (give --signal more time)"
    earlier = [failure for failure in before if failure.job == job]
    if any(failure.step == note.step for failure in earlier):
        why = f"the run {what}, and had failed there before; the job ends: find the reason in the log above"
        return Decision(again=False, failed=True, why=why)
    if sum(failure.checkpoint == checkpoint for failure in earlier) >= MOST_FAILURES - 1:
        why = f"the run {what}, {MOST_FAILURES} times now without a checkpoint in between; the job ends"
        return Decision(again=False, failed=True, why=why)
    why = f"the run {what}; the job begins again from its newest checkpoint, and ends if it fails there once more"
    return Decision(again=True, failed=True, why=why)


def read_failures(output: str) -> list[Failure]:
    """The failures of a run, oldest first; InputError naming the line that is none."""
    url = store.join(output, FILE)
    found: list[Failure] = []
    for number, line in enumerate(store.read_bytes(url).splitlines() if store.exists(url) else (), 1):
        try:
            found.append(Failure(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{url}: line {number} is not a failure of a run ({error}); delete the file") from error
    return found


def _note_failure(output: str, before: Sequence[Failure], failure: Failure) -> None:
    lines = [json.dumps(asdict(one)) + "\n" for one in (*before, failure)]
    store.write_bytes(store.join(output, FILE), "".join(lines).encode())


def _newest_checkpoint(output: str) -> int:
    """Steps of the newest checkpoint, -1 without one. The names are `slip.checkpoint`'s, which needs torch."""
    names = store.list_names(store.join(output, "checkpoints"))
    steps = [int(match.group(1)) for match in (re.fullmatch(r"step-(\d{8,})\.pt", name) for name in names) if match]
    return max(steps, default=-1)


def after_ranks(status: int, job_line: str, env: Mapping[str, str]) -> Decision:
    """Decide, and note a failure. Where the output cannot be read or written, a failed job does not begin again."""
    note, job = read_note(env), env.get("SLURM_JOB_ID", "")
    facts = read_facts(job_line)
    if status == 0 or note is None:
        return decide(status, facts, note, job=job, checkpoint=-1, before=())
    try:
        before, checkpoint = read_failures(note.output), _newest_checkpoint(note.output)
        decision = decide(status, facts, note, job=job, checkpoint=checkpoint, before=before)
        if decision.failed:
            failure = Failure(
                job=job, step=note.step, checkpoint=checkpoint, status=status, unix_s=round(time.time(), 1)
            )
            _note_failure(note.output, before, failure)
    except YfccError as error:
        return Decision(again=False, why=f"exit status {status}, and the failures before it are not known: {error}")
    return decision


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueConfig:
    """Called by slurm/job.sh."""

    status: tyro.conf.Positional[int]
    """Exit status of srun."""
    job: str = ""
    """What `scontrol show job -o` prints of the job."""


def main(argv: Sequence[str] | None = None) -> int:
    """Decide; AGAIN (75) when the job is to be requeued, else the status the ranks ended with."""

    def work() -> int:
        config = tyro.cli(
            RequeueConfig,
            args=sys.argv[1:] if argv is None else argv,
            prog="python -m slip.requeue",
            description=__doc__,
        )
        decision = after_ranks(config.status, config.job, os.environ)
        logger.log(logging.ERROR if config.status and not decision.again else logging.INFO, "%s", decision.why)
        if decision.again:
            return AGAIN
        # AGAIN means one thing only.
        return 1 if config.status == AGAIN else config.status

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
