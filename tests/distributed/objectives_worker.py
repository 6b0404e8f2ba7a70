"""One rank of tests/distributed/test_objectives.py: its share of a fixed batch, in every layout, saved for comparison.

Run as: python objectives_worker.py FOLDER RANK; imported, it gives the one-process result.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slip.config import ModelConfig, ObjectiveConfig
from slip.distributed import all_ranks, all_reduce_sum, any_rank, barrier, gather_rows, mean_over_ranks, shift_rows
from slip.exact_batch import ExactBatch
from slip.gradients import GradientAverager, gradient_norm
from slip.models.image import ImageTower
from slip.models.inputs import TowerInputs, rows_of
from slip.models.model import Model
from slip.models.registry import build_model
from slip.world import shutdown

Masking = Literal["none", "random", "attentive"]

VOCABULARY = 64
GLOBAL_BATCH = 64
WORLD_SIZES = (1, 2, 4)
MICRO = 16
LR = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Settings of one comparison."""

    objective: ObjectiveConfig
    masking: Masking = "none"


CASES: dict[str, Case] = {
    **{
        name: Case(objective=ObjectiveConfig(name=name))
        for name in ("clip", "siglip", "simclr", "mocov3", "byol", "mim")
    },
    **{
        f"slip-{ssl}": Case(objective=ObjectiveConfig(name="slip", ssl=(ssl,), ssl_scale=0.7))
        for ssl in ("simclr", "mocov3", "byol", "mim")
    },
    "slip-all-shared-attentive": Case(
        objective=ObjectiveConfig(name="slip", ssl=("simclr", "mocov3", "byol", "mim"), clip_view="shared"),
        masking="attentive",
    ),
    "clip-random": Case(objective=ObjectiveConfig(name="clip", clip_view="ssl"), masking="random"),
    "clip-paper": Case(objective=ObjectiveConfig(name="clip", gather="paper")),
    "slip-paper": Case(objective=ObjectiveConfig(name="slip", gather="paper")),
}


def model_of(case: Case) -> Model:
    """A small network of real parts, in float64: one block in each tower, few words."""
    config = ModelConfig(
        tower="tiny", image_size=16, context_length=8, ssl_hidden=24, ssl_dim=12, embed_dim=16, masking=case.masking
    )
    model = build_model(config, case.objective, seed=3)
    for tower in (model.visual, *([model.momentum.visual] if model.needs.momentum_views else [])):
        assert isinstance(tower, ImageTower)
        tower.blocks = nn.Sequential(tower.blocks[0])
    if model.has_text:
        words = model.token_embedding.weight.detach()[:VOCABULARY].clone()
        model.token_embedding = nn.Embedding(VOCABULARY, words.shape[1], _weight=words)
        model.transformer.resblocks = model.transformer.resblocks[:1]
    return model.double()


def batch_of(model: Model, masking: Masking, step: int) -> TowerInputs:
    """The whole batch of one step."""
    draw = torch.Generator().manual_seed(step)
    needs, size = model.needs, (GLOBAL_BATCH, 3, 16, 16)
    # Views of one picture are alike, or there would be nothing to tell apart.
    picture = torch.randn(size, dtype=torch.float64, generator=draw)
    views = tuple(picture + torch.randn(size, dtype=torch.float64, generator=draw) for _ in needs.views)
    tokens = torch.randint(1, VOCABULARY - 1, (GLOBAL_BATCH, 7), generator=draw)
    ends = torch.randint(1, 7, (GLOBAL_BATCH,), generator=draw)
    # The end token is the highest.
    tokens[torch.arange(GLOBAL_BATCH), ends] = VOCABULARY - 1

    def some(count: int) -> Tensor:
        return torch.rand((GLOBAL_BATCH, 4), generator=draw).argsort(dim=1)[:, :count]

    num_whole = len(needs.views) - (needs.hidden_view is not None)
    return TowerInputs(
        views=views,
        tokens=tokens if needs.text else None,
        keep=tuple(some(2) for _ in range(num_whole)) if masking == "random" else (),
        hidden=some(2) if needs.hidden_view is not None else None,
    )


def digest(tensors: dict[str, Tensor]) -> str:
    """Of names and bits."""
    found = sha256()
    for name, tensor in tensors.items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def run_case(case: Case, rank: int, world_size: int, *, micro: int, start: Path | None = None) -> dict[str, Any]:
    """Two steps of gradient descent: terms, gradients, norms and weights; with `start` only the second, from there."""
    model = model_of(case)
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True))
    averager = GradientAverager(model)
    exact = ExactBatch(model, case.objective, averager, micro_batch=micro)
    share = slice(rank * GLOBAL_BATCH // world_size, (rank + 1) * GLOBAL_BATCH // world_size)
    found: dict[str, Any] = {"terms": [], "grads": [], "norm": [], "weights": []}
    for step in (0, 1) if start is None else (1,):
        _, terms = exact(rows_of(batch_of(model, case.masking, step), share), seed=5)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found["terms"].append(mean_over_ranks(terms))
        found["grads"].append({n: cast(Tensor, p.grad).clone() for n, p in trained.items()})
        found["norm"].append(float(gradient_norm(model)))
        with torch.no_grad():
            for parameter in trained.values():
                parameter.sub_(cast(Tensor, parameter.grad), alpha=LR)
        model.update_momentum(0.9)
        found["weights"].append({n: w.clone() for n, w in model.state_dict().items()})
    found["digests"] = [digest(tensors) for tensors in (*found["grads"], *found["weights"])]
    return found


def run_collectives(rank: int, world_size: int) -> dict[str, Any]:
    """What every collective answers on this rank."""
    rows = torch.full((2, 3), float(rank), dtype=torch.float64, requires_grad=True)
    rows_all, first = gather_rows(rows)
    # Rank r's own loss weighs row i by (r + 1)(i + 1): the gradient sums the weights over ranks.
    weights = (rank + 1.0) * torch.arange(1, 2 * world_size + 1, dtype=torch.float64)
    torch.autograd.backward((rows_all * weights[:, None]).sum())
    x = torch.tensor([1.0 + rank], dtype=torch.float64, requires_grad=True)
    total = all_reduce_sum(x)
    torch.autograd.backward((total * (rank + 1.0)).sum())
    sent = torch.full((2,), float(rank), dtype=torch.float64, requires_grad=True)
    shifted = shift_rows(sent)
    torch.autograd.backward((shifted * (rank + 1.0)).sum())
    unequal = ""
    try:
        gather_rows(torch.zeros(1 + rank % 2, 3))
    except ValueError as error:
        unequal = str(error)
    barrier()
    return {
        "rows": rows_all.detach(),
        "first": first,
        "rows_grad": rows.grad,
        "total": total.item(),
        "total_grad": cast(Tensor, x.grad).item(),
        "shifted": shifted.tolist(),
        "shifted_grad": cast(Tensor, sent.grad).tolist(),
        "unequal": unequal,
        "any": [any_rank(False), any_rank(rank == world_size - 1), any_rank(torch.tensor(True))],
        "all": [all_ranks(True), all_ranks(rank != world_size - 1), all_ranks(torch.tensor(float("nan")).isfinite())],
        "mean": mean_over_ranks({"b": float(rank), "a": torch.tensor(1.0, requires_grad=True)}),
    }


def main(folder: Path, rank: int) -> None:
    """Run everything as one gloo rank of every world that is large enough to have it, the largest first."""
    torch.set_num_threads(1)
    for world_size in reversed(WORLD_SIZES):
        if rank < world_size:
            store = f"file://{folder}/store{world_size}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
            results: dict[str, Any] = {"collectives": run_collectives(rank, world_size)}
            for name, case in CASES.items():
                found = run_case(case, rank, world_size, micro=0)
                results[name] = found
                if rank == 0:
                    torch.save(found["weights"][0], folder / f"{name}-{world_size}.pt")
                barrier()
                if case.objective.gather == "exact":
                    # In parts, and going on from where the larger world was after its first step.
                    larger = folder / f"{name}-{2 * world_size}.pt"
                    start = larger if larger.exists() else None
                    results[f"{name}-parts"] = run_case(case, rank, world_size, micro=MICRO // world_size, start=start)
            if rank:  # digests say enough
                for found in results.values():
                    found.pop("grads", None)
                    found.pop("weights", None)
            torch.save(results, folder / f"{world_size}_{rank}.pt")
            barrier()
            shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
