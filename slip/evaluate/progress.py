"""How far a long pass over pictures or texts is: rank 0 shows it, for all ranks, once it has taken a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from pipeline.progress import Progress
from slip.distributed import rank

_DELAY_S = 3.0


@contextmanager
def counted(what: Literal["pictures", "texts"], total: int, *, ranks: int = 1) -> Iterator[Callable[[int], None]]:
    """A function that is told what this rank has done.

    Args:
        total: of all ranks together.
        ranks: how many share the work; what this rank does, each of them is taken to do.
    """
    if rank() > 0:
        yield lambda _: None
        return
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done = min(done + count * ranks, total)
        progress.advance_to(done)

    with Progress(what, unit=what, total=total, delay_s=_DELAY_S) as progress:
        yield advance
