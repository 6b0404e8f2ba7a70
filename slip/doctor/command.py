"""The verb `slip doctor`: before anyone pays for the GPUs, tries on all nodes what a run will need.

In: the manifest and output of the planned run; started like training, alone or as ranks by srun or torchrun. Out: one
table on standard output of rank 0, bad rows first, and the exit status. The checks are `slip.doctor.examine`'s.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import tyro

from slip.command import run_verb
from slip.doctor.config import DoctorConfig
from slip.doctor.finding import as_json, table

_INTERRUPTED = 130


def parse(argv: Sequence[str]) -> DoctorConfig:
    """Settings from a command line."""
    return tyro.cli(
        DoctorConfig,
        args=list(argv),
        prog="slip doctor",
        config=(tyro.conf.FlagCreatePairsOff,),
        description=(
            "Try on all nodes what a run will need: the same software everywhere, a shared folder, room, clocks, the "
            "data set's rate, writing a checkpoint, summing up over all ranks. One rank alone, or as many as the run "
            "has: srun --nodes=8 --ntasks-per-node=8 --gpus-per-node=8 slip doctor ..., or torchrun --nproc_per_node 8 "
            "-m slip doctor .... Exit status: 0 nothing is BAD, 1 something is. "
            "Units: MB are 10^6 bytes, GB 10^9; a name's ending is its unit: _s seconds, mb-s MB a second."
        ),
    )


def _colours_wanted() -> bool:
    """On a terminal, unless NO_COLOR (https://no-color.org) is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextmanager
def _interruptible() -> Iterator[None]:
    """In the block Ctrl-C, scancel and torchrun's SIGTERM interrupt what is going on, once: then it is tidied up."""
    endings = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for one in endings:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    # Python hands signals to its main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(one, interrupt) for one in endings]
    try:
        yield
    finally:
        for one, handler in zip(endings, before, strict=True):
            signal.signal(one, handler)


def check_up(config: DoctorConfig) -> int:
    """Make all checks and write what was found; 1 on rank 0 if anything is bad, else 0."""
    # They import torch, which --help and mistakes need not wait for.
    from slip.doctor.examine import examine
    from slip.doctor.exchange import Exchange, node_name, store_of
    from slip.doctor.traces import Traces
    from slip.world import init_world, shutdown

    world = init_world(timeout_s=2 * config.timeout_s)
    exchange = Exchange(
        store_of(world),
        rank=world.rank,
        world_size=world.world_size,
        node=node_name(),
        timeout_s=config.timeout_s,
    )
    # Not sooner: the meeting of the ranks cannot be interrupted, but it can be ended.
    with _interruptible(), Traces() as traces:
        findings, ranks = examine(config, world, exchange, traces)
    if world.main_rank:
        shown = as_json(findings, ranks.nodes)
        if not config.json:
            shown = table(findings, ranks.nodes, coloured=_colours_wanted())
        sys.stdout.write(shown)
        sys.stdout.flush()
    exchange.leave()
    status = int(any(finding.level == "BAD" for finding in findings))
    if exchange.stuck:
        # What hangs, in a file system or a collective, would keep the process from ending.
        os._exit(status)
    shutdown()
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Make the check-up; 0 nothing is bad, 1 something is or an error, 2 usage, 130 interrupted."""

    def work() -> int:
        return check_up(parse(sys.argv[1:] if argv is None else argv))

    # As slip.world finds it, which cannot be asked before torch is imported.
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    status = run_verb(work, rank=rank, interrupted="interrupted; what was written has been removed")
    if status == _INTERRUPTED:
        # Python would wait for reads under way, which may have a minute of attempts before them.
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
