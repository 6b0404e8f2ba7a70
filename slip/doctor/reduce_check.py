"""How fast the ranks sum up a message, whether the sum is right, and which rank lets the others wait.

Bus bandwidth as nccl-tests reports it: 2 (n - 1) / n times the bytes of the message, by the time; what the slowest link
carries, whatever the number of ranks n (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from slip.world import World

CHECK = "all-reduce"
LATE = "pace"

_WARM_UP = 2
_ROUNDS = 8
_TURNS = 20
# A piece of work for each kind of device: how often a square matrix of which side is multiplied.
_WORK = {"cuda": (8, 8192), "cpu": (1, 512)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """One rank's times, medians in seconds."""

    right: bool
    """Whether the sum was."""
    num_bytes: int
    message_s: float
    tiny_s: float
    work_s: float
    """Of a piece of work that is the same on all ranks."""
    wait_s: float
    """In a tiny sum after it: for the slowest rank."""
    device: str


def bus_bandwidth(num_bytes: int, seconds: float, num_ranks: int) -> float:
    """Bytes a second: 1000 bytes in 1 s over 4 ranks -> 1500."""
    return 2 * (num_ranks - 1) / num_ranks * num_bytes / seconds


def measure_reduce(world: World, num_bytes: int) -> Reduced:
    """All ranks together."""
    device = world.device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # holds for one thread

    def timed(step: Callable[[], object]) -> float:
        began = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    message = torch.full((max(num_bytes // 4, 1),), float(world.rank + 1), device=device)
    dist.all_reduce(message)
    right = bool((message == world.world_size * (world.world_size + 1) / 2).all())
    message.zero_()  # sums of sums would overflow
    tiny = torch.zeros(1, device=device)
    repeats, side = _WORK[device.type]
    matrix = torch.ones((side, side), device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)

    def work() -> None:
        for _ in range(repeats):
            matrix @ matrix

    for _ in range(_WARM_UP):
        dist.all_reduce(message)
        dist.all_reduce(tiny)
        work()
    if on_gpu:
        torch.cuda.synchronize(device)
    message_s = [timed(lambda: dist.all_reduce(message)) for _ in range(_ROUNDS)]
    tiny_s = [timed(lambda: dist.all_reduce(tiny)) for _ in range(_TURNS)]
    turns = [(timed(work), timed(lambda: dist.all_reduce(tiny))) for _ in range(_TURNS)]
    return Reduced(
        right=right,
        num_bytes=message.nbytes,
        message_s=statistics.median(message_s),
        tiny_s=statistics.median(tiny_s),
        work_s=statistics.median(work_s for work_s, _ in turns),
        wait_s=statistics.median(wait_s for _, wait_s in turns),
        device=device.type,
    )


def judge_sum(answers: Sequence[Answer[Reduced]], config: DoctorConfig) -> list[Finding]:
    """Right, and fast enough."""
    told = [(answer.node, answer.value) for answer in answers if answer.value is not None]
    nodes = tuple(dict.fromkeys(node for node, _ in told))
    if wrong := tuple(dict.fromkeys(node for node, one in told if not one.right)):
        advice = "do not train on this: look for a faulty GPU or link, and try NCCL_DEBUG=INFO"
        text = "the sum over all ranks is wrong"
        return [Finding(level="BAD", check=CHECK, where=wrong, found=text, advice=advice)]
    slowest_s = max(one.message_s for _, one in told)
    rate = bus_bandwidth(told[0][1].num_bytes, slowest_s, len(told)) / 1e9
    text = (
        f"{rate:.2f} GB/s of bus bandwidth ({told[0][1].num_bytes / 1e6:.0f} MB in {slowest_s * 1e3:.1f} ms), "
        f"{max(one.tiny_s for _, one in told) * 1e6:,.0f} us for one number"
    )
    if told[0][1].device == "cuda" and rate < config.min_reduce_gb_s:
        text += f"; --min-reduce-gb-s asks for {config.min_reduce_gb_s:g}"
        advice = "see with NCCL_DEBUG=INFO which network it uses; NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose another"
        return [Finding(level="WARN", check=CHECK, where=nodes, found=text, advice=advice)]
    return [Finding(level="OK", check=CHECK, where=nodes, found=text)]


def judge_pace(answers: Sequence[Answer[Reduced]], max_late: float) -> list[Finding]:
    """Who comes last waits least: nodes whose ranks come later than the first by too much of the work's time."""
    told = [(answer.rank, answer.node, answer.value) for answer in answers if answer.value is not None]
    longest_s = max(one.wait_s for _, _, one in told)
    typical_s = statistics.median(one.work_s for _, _, one in told)
    late = {(rank, node): (longest_s - one.wait_s) / typical_s for rank, node, one in told}
    last = max(late, key=lambda one: late[one])
    text = f"the last, rank {last[0]} on {last[1]}, comes {late[last]:.0%} of the work's time after the first"
    too_late = tuple(dict.fromkeys(node for (_, node), share in late.items() if share > max_late))
    if too_late and told[0][2].device == "cuda":
        text += f"; --max-late allows {max_late:.0%}"
        advice = "the others wait for it at every step: see what else runs there, its clocks and its temperature"
        return [Finding(level="WARN", check=LATE, where=too_late, found=text, advice=advice)]
    nodes = tuple(dict.fromkeys(node for _, node in late))
    return [Finding(level="OK", check=LATE, where=nodes, found=text)]


def judge_reduced(answers: Sequence[Answer[Reduced]], config: DoctorConfig) -> list[Finding]:
    """Both."""
    return [*judge_sum(answers, config), *judge_pace(answers, config.max_late)]
