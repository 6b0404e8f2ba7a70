"""Which ranks there are and on what: equally many on each node, a GPU of one kind for each, its memory free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from slip.world import World

CHECK = "ranks"

_FREE_SHARE = 0.9
"""Of a GPU's memory, at least: the rest is this program's own and the driver's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFacts:
    """One rank's device."""

    device: str
    """cpu or cuda."""
    gpu: str = ""
    """Name of its GPU."""
    gpus_shown: int = 0
    """GPUs that this process could use."""
    total_bytes: int = 0
    """Memory of its GPU."""
    free_bytes: int = 0


def rank_facts(world: World) -> RankFacts:
    """Look at this rank's device."""
    if world.device.type != "cuda":
        return RankFacts(device=world.device.type)
    free_bytes, total_bytes = torch.cuda.mem_get_info(world.device)
    return RankFacts(
        device="cuda",
        gpu=torch.cuda.get_device_name(world.device),
        gpus_shown=torch.cuda.device_count(),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
    )


def _sides(values: dict[str, str], most: str) -> tuple[str, ...]:
    """Nodes that are not like most of them."""
    return tuple(node for node, value in values.items() if value != most)


def _odd_ones(what: str, values: dict[str, str], level: str, advice: str) -> list[Finding]:
    """A finding about the nodes that differ from most, if any does."""
    counted = Counter(values.values())
    if len(counted) < 2:
        return []
    most = counted.most_common(1)[0][0]
    odd = _sides(values, most)
    found = ", ".join(dict.fromkeys(values[node] for node in odd))
    return [
        Finding(
            level="BAD" if level == "BAD" else "WARN",
            check=CHECK,
            where=odd,
            found=f"{what}: {found}; {most} on the others",
            advice=advice,
        )
    ]


def judge_ranks(answers: Sequence[Answer[RankFacts]]) -> list[Finding]:
    """Compare nodes with each other, and GPUs with the ranks that use them."""
    by_node: dict[str, list[RankFacts]] = {}
    for answer in answers:
        if answer.value is not None:
            by_node.setdefault(answer.node, []).append(answer.value)
    counts = {node: str(len(ranks)) for node, ranks in by_node.items()}
    devices = {node: " and ".join(sorted({one.device for one in ranks})) for node, ranks in by_node.items()}
    names = {node: " and ".join(sorted({one.gpu for one in ranks if one.gpu})) for node, ranks in by_node.items()}
    found = [
        *_odd_ones("ranks on the node", counts, "BAD", "start equally many on each node (--ntasks-per-node)"),
        *_odd_ones("devices", devices, "BAD", "give every node its GPUs (--gpus-per-node), and torch with CUDA"),
    ]
    if not found:
        found += _odd_ones("GPUs", names, "WARN", "all wait for the slowest; ask for one kind (--constraint)")
    idle = {node: max(one.gpus_shown for one in ranks) - len(ranks) for node, ranks in by_node.items()}
    if with_idle := tuple(node for node, number in idle.items() if number > 0):
        number = max(idle.values())
        text = f"{number} GPU{'s' if number > 1 else ''} more than ranks: nothing would use them"
        advice = "start one rank for each GPU"
        found.append(Finding(level="WARN", check=CHECK, where=with_idle, found=text, advice=advice))
    taken = {
        node: max((one.total_bytes - one.free_bytes) / 1e9 for one in ranks)
        for node, ranks in by_node.items()
        if any(one.free_bytes < _FREE_SHARE * one.total_bytes for one in ranks)
    }
    if taken:
        text = f"up to {max(taken.values()):.1f} GB of a GPU's memory are taken"
        advice = "find out by whom with nvidia-smi"
        found.append(Finding(level="WARN", check=CHECK, where=tuple(taken), found=text, advice=advice))
    return found or [_fine(by_node)]


def _fine(by_node: dict[str, list[RankFacts]]) -> Finding:
    facts = [one for ranks in by_node.values() for one in ranks]
    device = facts[0].gpu or "the CPU"
    text = "1 rank" if len(facts) == 1 else f"{len(facts)} ranks, {len(facts) // len(by_node)} on each node"
    text = f"{text}, on {device}"
    return Finding(level="OK", check=CHECK, where=tuple(by_node), found=text)
