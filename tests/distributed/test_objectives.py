"""How a batch is split over processes changes neither loss nor gradient nor batch-norm statistics."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("objectives_worker.py")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("objectives_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(worker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of every rank of 1, 2 and 4 gloo processes."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(WORKER), str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for rank in range(max(worker.WORLD_SIZES))
    ]
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(codes), f"exit codes by rank: {codes}"
    return folder


@pytest.fixture(params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest, results: Path) -> list[dict[str, Any]]:
    return [torch.load(results / f"{request.param}_{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", ["clip", "simclr", "slip"])
def test_loss_and_gradient_are_those_of_one_process(worker: ModuleType, ranks: list[dict[str, Any]], name: str) -> None:
    expected = worker.run_objective(name, 0, 1)
    for found in (rank[name] for rank in ranks):
        for one, many in zip(expected["parts"], found["parts"], strict=True):
            assert many == pytest.approx(one, rel=0, abs=1e-10)
        assert found["grads"].keys() == expected["grads"].keys()
        torch.testing.assert_close(found["grads"], expected["grads"], rtol=0, atol=1e-10)
        torch.testing.assert_close(found["buffers"], expected["buffers"], rtol=0, atol=1e-10)
    # A comparison of zeros would prove nothing; only biases whose effect a batch norm takes out have no gradient.
    for parameter, grad in expected["grads"].items():
        assert grad.abs().max() > 1e-6 or parameter.endswith(".bias"), parameter


def test_collectives(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    weight_sum = sum(range(1, size + 1))
    for rank, found in enumerate(result["collectives"] for result in ranks):
        assert found["first"] == 2 * rank
        assert found["rows"][:, 0].tolist() == [float(r) for r in range(size) for _ in range(2)]
        expected = torch.tensor([weight_sum * (2.0 * rank + i) for i in (1, 2)], dtype=torch.float64)
        torch.testing.assert_close(found["rows_grad"], expected[:, None].expand(2, 3))
        assert found["total"] == weight_sum
        assert found["total_grad"] == weight_sum
        assert ("ranks brought [1, 2" in found["unequal"]) == (size > 1)
        assert found["any"] == [False, True, True]
        assert found["all"] == [True, False, False]
        assert found["mean"] == {"a": 1.0, "b": (size - 1) / 2}


TORCHRUN_SCRIPT = """
import sys
from slip.distributed import any_rank, init_world, mean_over_ranks, shutdown
world = init_world("cpu", timeout_s=60)
found = (world.world_size, world.main_rank, mean_over_ranks({"rank": world.rank})["rank"], any_rank(world.rank == 1))
open(f"{sys.argv[1]}/{world.rank}.txt", "w").write(repr(found))
shutdown()
"""


def test_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN_SCRIPT)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launcher, str(script), str(tmp_path)], check=True, env=env, timeout=180)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == [
        "(2, True, 0.5, True)",
        "(2, False, 0.5, True)",
    ]
