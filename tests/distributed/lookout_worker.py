"""Four ranks play what a lookout must see, or must not: `python tests/distributed/lookout_worker.py FOLDER`.

All scenes run at once, forked from this process, which has imported what they need. FOLDER/SCENE-RANK.log is what a
rank logged, FOLDER/codes.json the exit code of each rank by scene.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from slip.distributed import communicating
from slip.lookout import Lookout
from slip.world import World, init_world
from tests.ports import free_port

RANKS = 4
SILENT_S = 4.0
STEP = 7
END_S = 150
"""A rank that has not ended by then does, and its log says where it was."""
EXIT_ERROR = 3
"""Of a rank whose collective failed."""


def meet() -> None:
    """A collective as training calls it."""
    with communicating():
        dist.all_reduce(torch.ones(1))


def killed(world: World, lookout: Lookout) -> None:
    """Rank 2 is killed while the others wait for it."""
    if world.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    meet()


def frozen(world: World, lookout: Lookout) -> None:
    """Rank 2 is stopped while the others wait for it."""
    if world.rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    meet()


def first_killed(world: World, lookout: Lookout) -> None:
    """Rank 0, which has the store, is killed; one waits for it in a collective, two where no error reaches them."""
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if world.rank == 1:
        meet()
    time.sleep(100 * SILENT_S)


def first_frozen(world: World, lookout: Lookout) -> None:
    """Rank 0, which has the store, is stopped: connections stay open and nothing answers."""
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    meet()


def failed(world: World, lookout: Lookout) -> None:
    """Rank 3 leaves with an error, of which the others hear from the lookout alone."""
    if world.rank == 3:
        raise ValueError("a picture that is none")
    time.sleep(100 * SILENT_S)


def slow(world: World, lookout: Lookout) -> None:
    """Rank 1 takes its time; then all end, rank 0 and its store first, others long after."""
    if world.rank == 1:
        time.sleep(5 * SILENT_S)
    meet()
    time.sleep(world.rank * SILENT_S / 2)


SCENES: dict[str, Callable[[World, Lookout], None]] = {
    scene.__name__: scene for scene in (killed, frozen, first_killed, first_frozen, failed, slow)
}


def play(name: str, rank: int, port: int, folder: Path) -> None:
    """One rank of a scene."""
    log = os.open(folder / f"{name}-{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, sys.stderr.fileno())
    faulthandler.dump_traceback_later(END_S, exit=True)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)
    world = init_world("cpu")
    with Lookout(world, silent_s=SILENT_S, slow_s=SILENT_S) as lookout:
        lookout.at(STEP)
        # Every rank is heard of, as in any but the first seconds of a run.
        assert lookout.gone(60) is None
        meet()
        try:
            SCENES[name](world, lookout)
        except RuntimeError:
            logging.error("collective: %s", lookout.gone(SILENT_S / 2))
            sys.exit(EXIT_ERROR)


def main(folder: Path) -> None:
    """Play all scenes."""
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    scenes: dict[str, list[BaseProcess]] = {
        name: [fork.Process(target=play, args=(name, rank, port, folder), daemon=True) for rank in range(RANKS)]
        for port, name in enumerate(SCENES, start=free_port(len(SCENES)))
    }
    for ranks in scenes.values():
        for rank in ranks:
            rank.start()
    # Those that were stopped end at the very last.
    stopped = (scenes["frozen"][2], scenes["first_frozen"][0])
    for ranks in scenes.values():
        for rank in ranks:
            if rank not in stopped:
                rank.join()
    for rank in stopped:
        rank.kill()
        rank.join()
    codes = {name: [rank.exitcode for rank in ranks] for name, ranks in scenes.items()}
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
