"""How a batch is split over processes, or cut into parts, changes neither loss nor gradients nor running statistics."""

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
from torch import Tensor, nn

from slip.objectives.clip import clip_term
from tests.ranks import start_and_wait

WORKER = Path(__file__).with_name("objectives_worker.py")
ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-10
EXACT = [
    *("clip", "siglip", "simclr", "mocov3", "byol", "mim"),
    *("slip-simclr", "slip-mocov3", "slip-byol", "slip-mim", "slip-all-shared-attentive", "clip-random"),
]
PAPER = ["clip-paper", "slip-paper"]


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("objectives_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up here.
    sys.modules["objectives_worker"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(worker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of every rank of 1, 2 and 4 gloo processes."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(WORKER), str(folder)]
    start_and_wait(command, max(worker.WORLD_SIZES))
    return folder


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest, results: Path) -> list[dict[str, Any]]:
    return [torch.load(results / f"{request.param}_{rank}.pt", mmap=True) for rank in range(request.param)]


@pytest.fixture(scope="module")
def expected(worker: ModuleType) -> dict[str, dict[str, Any]]:
    """What one process without a process group finds, all at once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {name: worker.run_case(case, 0, 1, micro=0) for name, case in worker.CASES.items()}
    torch.set_num_threads(threads)
    return found


def test_every_case_is_looked_at(worker: ModuleType) -> None:
    assert sorted(worker.CASES) == sorted(EXACT + PAPER)


def assert_same_step(found: dict[str, Any], expected: dict[str, Any], at: int, of: int) -> None:
    """Step `at` of what was found is step `of` of what was expected."""
    terms, expected_terms = found["terms"][at], expected["terms"][of]
    assert terms.keys() == expected_terms.keys()
    for name, value in expected_terms.items():
        # A rank's images look for their caption among its own only.
        if name != "acc/siglip":
            assert terms[name] == pytest.approx(value, rel=0, abs=TOLERANCE), name
    grads, expected_grads = found["grads"][at], expected["grads"][of]
    assert grads.keys() == expected_grads.keys()
    largest = max(float(grad.abs().max()) for grad in expected_grads.values())
    assert largest > 1e-3
    for name, grad in expected_grads.items():
        assert float((grads[name] - grad).abs().max()) < TOLERANCE * largest, name
    assert found["norm"][at] == pytest.approx(expected["norm"][of], rel=TOLERANCE)
    # Momentum tower and running statistics are among them.
    torch.testing.assert_close(found["weights"][at], expected["weights"][of], rtol=0, atol=TOLERANCE)


def assert_ranks_agree(ranks: list[dict[str, Any]], name: str) -> None:
    """Every rank has the same means, gradients and weights, to the last bit: they never drift apart."""
    for rank in ranks[1:]:
        assert rank[name]["terms"] == ranks[0][name]["terms"]
        assert rank[name]["digests"] == ranks[0][name]["digests"]


@pytest.mark.parametrize("name", EXACT)
def test_loss_and_gradient_are_those_of_one_process(
    expected: dict[str, dict[str, Any]], ranks: list[dict[str, Any]], name: str
) -> None:
    first = ranks[0][name]
    assert len(first["terms"]) == 2
    for step in (0, 1):
        assert_same_step(first, expected[name], step, step)
    assert_ranks_agree(ranks, name)


@pytest.mark.parametrize("name", EXACT)
def test_parts_go_on_in_another_layout(
    expected: dict[str, dict[str, Any]], ranks: list[dict[str, Any]], name: str
) -> None:
    first = ranks[0][f"{name}-parts"]
    # The largest world begins at the beginning, the others where the next larger one was after its first step.
    num_steps = len(first["terms"])
    assert num_steps == (2 if len(ranks) == 4 else 1)
    for number in range(num_steps):
        assert_same_step(first, expected[name], number, 2 - num_steps + number)
    assert_ranks_agree(ranks, f"{name}-parts")


def test_no_parameter_is_compared_only_by_zeros(expected: dict[str, dict[str, Any]]) -> None:
    for case in EXACT:
        for name, grad in expected[case]["grads"][0].items():
            # Biases that a batch norm or a softmax takes out have none; a mask token of zeros would be a mistake.
            assert float(grad.abs().max()) > 1e-9 or name.endswith("bias"), (case, name)


def cut_clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss with a gradient for what looks for its partner, and none for what it chooses from."""
    image, text = nn.functional.normalize(image, dim=1), nn.functional.normalize(text, dim=1)
    own = torch.arange(len(image))
    to_texts = nn.functional.cross_entropy(scale * image @ text.detach().T, own)
    return (to_texts + nn.functional.cross_entropy(scale * text @ image.detach().T, own)) / 2


def test_published_gather_has_half_the_gradient_of_random_embeddings() -> None:
    draw = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 64, 16, dtype=torch.float64, generator=draw)
    inputs = (image.clone().requires_grad_(), text.clone().requires_grad_())
    scale = torch.tensor(1 / 0.07, dtype=torch.float64)
    cut, exact = (
        torch.cat(torch.autograd.grad(loss, inputs))
        for loss in (cut_clip_loss(*inputs, scale), clip_term(*inputs, scale).loss)
    )
    assert 0.45 < float(cut.norm() / exact.norm()) < 0.55
    assert 0.9 < float(nn.functional.cosine_similarity(cut.flatten(), exact.flatten(), dim=0)) < 0.99


def test_published_gather_cuts_the_gradient_of_what_is_chosen_from(
    worker: ModuleType, expected: dict[str, dict[str, Any]], ranks: list[dict[str, Any]]
) -> None:
    found, exact = ranks[0]["clip-paper"], expected["clip"]
    assert_ranks_agree(ranks, "clip-paper")
    if len(ranks) == 1:
        assert_same_step(found, exact, 0, 0)
        return
    for name, value in exact["terms"][0].items():
        assert found["terms"][0][name] == pytest.approx(value, rel=0, abs=TOLERANCE)
    model = worker.model_of(worker.CASES["clip-paper"])
    batch = worker.batch_of(model, "none", 0)
    loss = cut_clip_loss(model.encode_image(batch.views[0]), model.encode_text(batch.tokens), model.logit_scale.exp())
    torch.autograd.backward(loss)
    largest = max(float(grad.abs().max()) for grad in exact["grads"][0].values())
    for name, parameter in model.named_parameters():
        assert float((found["grads"][0][name] - parameter.grad).abs().max()) < TOLERANCE * largest, name
    # The temperature's is not touched, the towers' is another one, in size and direction.
    scale, exact_scale = (results["grads"][0]["logit_scale"].item() for results in (found, exact))
    assert scale == pytest.approx(exact_scale, rel=TOLERANCE)
    towers, exact_towers = tower_gradient(found["grads"][0]), tower_gradient(exact["grads"][0])
    assert float(towers.norm() / exact_towers.norm()) < 0.9
    assert float(nn.functional.cosine_similarity(towers, exact_towers, dim=0)) < 0.99


def tower_gradient(grads: dict[str, Tensor]) -> Tensor:
    """The towers' gradients in one vector."""
    towers = ("visual.", "transformer.", "token_embedding", "positional_embedding", "ln_final")
    return torch.cat([grad.flatten() for name, grad in sorted(grads.items()) if name.startswith(towers)])


def test_published_gather_leaves_the_other_terms_alone(
    expected: dict[str, dict[str, Any]], ranks: list[dict[str, Any]]
) -> None:
    grads, exact = ranks[0]["slip-paper"]["grads"][0], expected["slip-paper"]["grads"][0]
    heads = [name for name in exact if name.startswith("image_mlp.")]
    assert heads
    for name in heads:
        torch.testing.assert_close(grads[name], exact[name], rtol=0, atol=TOLERANCE)


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
        assert found["shifted"] == [(rank - 1) % size] * 2
        # What this rank sent is weighed by the rank that received it, the next one.
        assert found["shifted_grad"] == [(rank + 1) % size + 1.0] * 2
        assert ("ranks brought [1, 2" in found["unequal"]) == (size > 1)
        assert found["any"] == [False, True, True]
        assert found["all"] == [True, False, False]
        assert found["mean"] == {"a": 1.0, "b": (size - 1) / 2}


TORCHRUN_SCRIPT = """
import sys
from slip.distributed import any_rank, mean_over_ranks
from slip.world import init_world, shutdown
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
