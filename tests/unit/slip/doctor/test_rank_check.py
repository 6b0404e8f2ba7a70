"""Ranks and devices: unequal nodes, idle or busy GPUs, GPUs of several kinds."""

from __future__ import annotations

import torch

from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from slip.doctor.rank_check import RankFacts, judge_ranks, rank_facts
from slip.world import World

H100 = RankFacts(device="cuda", gpu="H100", gpus_shown=2, total_bytes=80 * 10**9, free_bytes=79 * 10**9)
CPU = RankFacts(device="cpu")


def judged(*told: tuple[str, RankFacts]) -> list[Finding]:
    return judge_ranks([Answer(rank=rank, node=node, value=facts) for rank, (node, facts) in enumerate(told)])


def test_equal_nodes_are_fine() -> None:
    (found,) = judged(("a", H100), ("a", H100), ("b", H100), ("b", H100))
    assert found == Finding(level="OK", check="ranks", where=("a", "b"), found="4 ranks, 2 on each node, on H100")
    (found,) = judged(("a", CPU))
    assert found.found == "1 rank, on the CPU"


def test_a_node_with_fewer_ranks_is_bad() -> None:
    (found,) = judged(*[(node, CPU) for node in "aabbccd"])
    assert (found.level, found.where) == ("BAD", ("d",))
    assert found.found == "ranks on the node: 1; 2 on the others"


def test_a_node_without_gpus_is_bad() -> None:
    found = judged(*[(node, CPU if node == "b" else H100) for node in "aabbcc"])
    assert [(one.level, one.where) for one in found] == [("BAD", ("b",))]
    assert found[0].found == "devices: cpu; cuda on the others"


def test_another_kind_of_gpu_is_a_warning() -> None:
    a100 = RankFacts(device="cuda", gpu="A100", gpus_shown=1, total_bytes=80 * 10**9, free_bytes=79 * 10**9)
    one = RankFacts(device="cuda", gpu="H100", gpus_shown=1, total_bytes=80 * 10**9, free_bytes=79 * 10**9)
    (found,) = judged(("a", one), ("b", a100), ("c", one))
    assert (found.level, found.where, found.found) == ("WARN", ("b",), "GPUs: A100; H100 on the others")


def test_gpus_without_a_rank_are_a_warning() -> None:
    (found,) = judged(("a", H100), ("b", H100))
    assert (found.level, found.where) == ("WARN", ("a", "b"))
    assert found.found.startswith("1 GPU more than ranks")


def test_a_gpu_in_use_is_a_warning() -> None:
    busy = RankFacts(device="cuda", gpu="H100", gpus_shown=2, total_bytes=80 * 10**9, free_bytes=40 * 10**9)
    (found,) = judged(("a", H100), ("a", H100), ("b", H100), ("b", busy))
    assert (found.level, found.where) == ("WARN", ("b",))
    assert found.found.startswith("up to 40.0 GB")


def test_the_facts_of_a_cpu_rank() -> None:
    world = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    assert rank_facts(world) == CPU
