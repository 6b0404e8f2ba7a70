"""One rank of tests/distributed/test_objectives.py: its share of a fixed batch, through DDP, saved for comparison.

Run as: python objectives_worker.py FOLDER RANK; imported, it gives the one-process result.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slip.config import ObjectiveConfig, ObjectiveName
from slip.distributed import (
    all_ranks,
    all_reduce_sum,
    any_rank,
    barrier,
    gather_rows,
    mean_over_ranks,
    shutdown,
)
from slip.models.heads import SSLHead
from slip.models.model import Model
from slip.models.text import TextShape
from slip.objectives.registry import objective

GLOBAL_BATCH = 8
WORLD_SIZES = (1, 2, 4)
NAMES: tuple[ObjectiveName, ...] = ("clip", "simclr", "slip")


def small_model(needs_text: bool, needs_head: bool) -> Model:
    """All kinds of parameters, in float64; the image tower is a stand-in, so that timm need not be imported."""
    torch.manual_seed(1)
    visual = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.Flatten(), nn.Linear(48, 12), nn.LayerNorm(12))
    text = TextShape(width=8, layers=2, heads=2, context=10, vocabulary=30)
    return Model(
        visual=visual,
        visual_width=12,
        embed_dim=6,
        text=text if needs_text else None,
        head=SSLHead(12, 16, 5) if needs_head else None,
    ).double()


def run_objective(name: ObjectiveName, rank: int, world_size: int) -> dict[str, Any]:
    """Two forward and backward passes of one rank: parts averaged over ranks, DDP's gradients, batch-norm state."""
    goal = objective(ObjectiveConfig(name=name, ssl_scale=0.7, ssl_temperature=0.2))
    model = small_model(goal.needs_text, "ssl" in goal.views)
    module: nn.Module = model
    if dist.is_initialized():
        module = nn.parallel.DistributedDataParallel(model)
    draw = torch.Generator().manual_seed(2)
    share = slice(rank * GLOBAL_BATCH // world_size, (rank + 1) * GLOBAL_BATCH // world_size)
    parts: list[dict[str, float]] = []
    for _ in range(2):
        views = tuple(
            torch.randn(GLOBAL_BATCH, 3, 8, 8, dtype=torch.float64, generator=draw)[share] for _ in goal.views
        )
        tokens = torch.randint(1, 29, (GLOBAL_BATCH, 7), generator=draw)
        tokens[:, -1] = 29
        found = goal(module(views, goal.views, tokens[share] if goal.needs_text else None))
        torch.autograd.backward(found["loss"])
        parts.append(mean_over_ranks(found))
    grads = {n: cast(Tensor, p.grad) for n, p in model.named_parameters()}
    return {"parts": parts, "grads": grads, "buffers": {n: b.clone() for n, b in model.named_buffers()}}


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
        "unequal": unequal,
        "any": [any_rank(False), any_rank(rank == world_size - 1), any_rank(torch.tensor(True))],
        "all": [all_ranks(True), all_ranks(rank != world_size - 1), all_ranks(torch.tensor(float("nan")).isfinite())],
        "mean": mean_over_ranks({"b": float(rank), "a": torch.tensor(1.0, requires_grad=True)}),
    }


def main(folder: Path, rank: int) -> None:
    """Run everything as one gloo rank of every world that is large enough to have it."""
    torch.set_num_threads(1)
    for world_size in WORLD_SIZES:
        if rank < world_size:
            store = f"file://{folder}/store{world_size}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
            results: dict[str, Any] = {name: run_objective(name, rank, world_size) for name in NAMES}
            results["collectives"] = run_collectives(rank, world_size)
            torch.save(results, folder / f"{world_size}_{rank}.pt")
            barrier()
            shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
