"""Whether every node sees the same thing under --output: what one writes there, the others can read.

In: a folder or URL. Rank 0 writes a file there; each node looks for it and writes one of its own, for which rank 0
looks. Network file systems show a new file only after a while, so it is looked for again and again. Out: which nodes
see another folder, or none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import store
from pipeline.errors import StoreError
from slip.doctor.exchange import GRACE_S, Exchange, Ranks, failures
from slip.doctor.finding import Finding
from slip.doctor.traces import Traces

CHECK = "output"

# NFS remembers for up to 60 s what is in a folder (nfs(5), acdirmax), but asks at once about what it has not seen yet.
VISIBLE_S = 60.0
_SLOW_S = 5.0
_PAUSE_S = 0.1
_ADVICE = "mount the same folder on every node, or give --output a URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one node saw of a file that another had written before."""

    seconds: float | None
    """Until it was there, whole; None: it was not there in time."""
    detail: str = ""
    """What was there instead."""


def trial_folder(output: str, token: str) -> Path:
    """Where the files of a check-up lie; `output` is local."""
    _, path = store.filesystem(store.join(output, f".slip-doctor-{token}"))
    return Path(path).absolute()


def trial_url(output: str, ranks: Ranks, rank: int) -> str:
    """The file of one rank; a store of objects has no folders to tidy up, so there it lies in the output itself."""
    if store.is_local(output):
        return str(trial_folder(output, ranks.token) / f"rank-{rank}")
    return store.join(output, f"slip-doctor-{ranks.token}-rank-{rank}")


def look_for(url: str, content: bytes, *, within_s: float) -> Sight:
    """Wait until the file is there with this content."""
    began = time.monotonic()
    while True:
        try:
            found, detail = store.read_bytes(url), f"{url} has other content"
        except StoreError as error:
            found, detail = b"", str(error)
        elapsed_s = time.monotonic() - began
        if found == content:
            return Sight(seconds=elapsed_s)
        if elapsed_s >= within_s:
            return Sight(seconds=None, detail=detail)
        time.sleep(min(_PAUSE_S, within_s))


def judge_output(output: str, seen: Sequence[tuple[str, Sight]], shown: Sequence[tuple[str, Sight]]) -> list[Finding]:
    """Say which nodes see another folder, or see it late.

    Args:
        output: the folder.
        seen: each node, rank 0's first, and what it saw of rank 0's file.
        shown: what rank 0 saw of the files of the nodes that saw its own.
    """
    first = seen[0][0]
    found: list[Finding] = []
    for those, text in (
        (seen, f"what {first} writes to {output} is not seen here"),
        (shown, f"what is written to {output} here is not seen on {first}"),
    ):
        blind = {node: sight.detail for node, sight in those if sight.seconds is None}
        if blind:
            text = f"{text} ({next(iter(blind.values()))})"
            found.append(Finding(level="BAD", check=CHECK, where=tuple(blind), found=text, advice=_ADVICE))
    late = {node: s.seconds for node, s in [*seen, *shown] if s.seconds is not None and s.seconds > _SLOW_S}
    if late:
        text = f"a new file in {output} was seen only after {max(late.values()):.1f} s"
        advice = "no fault, but what other nodes write will appear late"
        found.append(Finding(level="WARN", check=CHECK, where=tuple(late), found=text, advice=advice))
    if found:
        return found
    nodes = tuple(node for node, _ in seen)
    text = f"{output} is the same for all" if len(nodes) > 1 else f"{output} can be written to"
    return [Finding(level="OK", check=CHECK, where=nodes, found=text)]


def check_output(output: str, exchange: Exchange, ranks: Ranks, traces: Traces, within_s: float) -> list[Finding]:
    """Write, look, and look back; rank 0 gets the findings. Removing the files is left to `traces`."""

    def content(rank: int) -> bytes:
        return f"{ranks.token} {rank} {ranks.nodes[rank]}\n".encode()

    def write() -> None:
        url = traces.file(trial_url(output, ranks, ranks.rank))
        if store.is_local(output):
            # Not through the store, which would make the folder again if rank 0 has just removed it.
            Path(url).write_bytes(content(ranks.rank))
        else:
            store.write_bytes(url, content(ranks.rank))

    def begin() -> None:
        if store.is_local(output):
            traces.folder(trial_folder(output, ranks.token))
        write()

    def see() -> Sight | None:
        if exchange.wait_for("output-begun", timeout_s=GRACE_S) == b"no":
            return None
        sight = look_for(trial_url(output, ranks, 0), content(0), within_s=within_s)
        if ranks.rank and sight.seconds is not None:
            write()
        return sight

    begun = exchange.gather("output-begin", None if ranks.rank else begin)
    if not ranks.rank:
        exchange.say("output-begun", b"no" if begun[0].error else b"yes")
    seen = exchange.gather("output-see", see if ranks.leads else None)

    def look_back() -> list[tuple[str, Sight]]:
        end = time.monotonic() + within_s
        return [
            (one.node, look_for(trial_url(output, ranks, one.rank), content(one.rank), within_s=end - time.monotonic()))
            for one in seen
            if one.value is not None and one.value.seconds is not None
        ]

    back = exchange.gather("output-back", None if ranks.rank else look_back)
    if ranks.rank:
        return []
    if failed := failures(CHECK, begun, "let --output be a place that can be written to"):
        return failed
    failed = failures(CHECK, [*seen, *back], _ADVICE)
    told = [(answer.node, answer.value) for answer in seen if answer.value is not None]
    if not told or back[0].value is None:
        return failed
    judged = judge_output(output, told, back[0].value)
    return failed + ([] if failed and judged[0].level == "OK" else judged)
