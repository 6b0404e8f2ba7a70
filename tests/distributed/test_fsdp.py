"""Towers in shards (FSDP2) train as whole towers do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import start_and_wait

WORKER = Path(__file__).with_name("fsdp_worker.py")
ROOT = Path(__file__).resolve().parents[2]
WORLD_SIZE = 2
CASES = ("simclr", "mocov3-mim-attentive", "simclr-checkpointing")
MICRO = (0, 3)
# Shards' gradients are summed in float32, whatever the towers compute in.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank found."""
    folder = tmp_path_factory.mktemp("fsdp")
    start_and_wait([sys.executable, str(WORKER), str(folder)], WORLD_SIZE)
    return [torch.load(folder / f"{rank}.pt", mmap=True) for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("micro", MICRO)
@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_weights_are_those_of_whole_towers(
    results: list[dict[str, Any]], case: str, micro: int
) -> None:
    expected = results[0][f"{case}/whole/0"]
    for found in (rank[f"{case}/sharded/{micro}"] for rank in results):
        for step, expected_terms in enumerate(expected["terms"]):
            assert found["terms"][step] == pytest.approx(expected_terms, rel=0, abs=TOLERANCE)
            grads, expected_grads = found["grads"][step], expected["grads"][step]
            assert grads.keys() == expected_grads.keys()
            largest = max(float(grad.abs().max()) for grad in expected_grads.values())
            for name, grad in expected_grads.items():
                assert float((grads[name] - grad).abs().max()) < TOLERANCE * largest, name
            assert found["norm"][step] == pytest.approx(expected["norm"][step], rel=TOLERANCE)
            # Weights, the momentum tower's among them, and running statistics.
            torch.testing.assert_close(found["weights"][step], expected["weights"][step], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_towers_are_in_shards_and_nothing_else_is(results: list[dict[str, Any]], case: str) -> None:
    towers = ("visual.", "momentum.visual.", "transformer.")
    found = [rank[f"{case}/sharded/0"] for rank in results]
    names = {name for name in results[0][f"{case}/whole/0"]["weights"][0] if name.startswith(towers)}
    assert set(found[0]["sharded"]) == names
    assert sum(rank["local"] for rank in found) == found[0]["numel"]
    assert all(rank["local"] <= 0.55 * rank["numel"] for rank in found)
    assert results[0][f"{case}/whole/0"]["sharded"] == []


def test_the_momentum_tower_follows(results: list[dict[str, Any]]) -> None:
    first, second = results[0]["mocov3-mim-attentive/sharded/0"]["weights"]
    names = [name for name in first if name.startswith("visual.blocks.") and name.endswith("weight")]
    assert names
    for name in names:
        expected = 0.9 * first[f"momentum.{name}"] + 0.1 * second[name]
        torch.testing.assert_close(second[f"momentum.{name}"], expected, rtol=0, atol=1e-12)
        assert not torch.equal(first[f"momentum.{name}"], second[f"momentum.{name}"]), name
