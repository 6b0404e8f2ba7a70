"""One rank of tests/distributed/test_fsdp.py: some steps with whole towers and with sharded ones, for comparison.

Run as: python fsdp_worker.py FOLDER RANK
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slip.config import ModelConfig, ObjectiveConfig
from slip.distributed import barrier, mean_over_ranks
from slip.exact_batch import ExactBatch
from slip.gradients import GradientAverager, gradient_norm
from slip.models.image import ImageTower
from slip.models.inputs import TowerInputs, rows_of
from slip.models.model import Model
from slip.models.registry import build_model
from slip.parallel import shard
from slip.world import World, shutdown

WORLD_SIZE = 2
GLOBAL_BATCH = 16
STEPS = 2
VOCABULARY = 64
LR = 0.01
MICRO = (0, 3)
CONFIG = ModelConfig(tower="tiny", image_size=16, context_length=8, ssl_hidden=24, ssl_dim=12, embed_dim=16)
CASES: dict[str, tuple[ObjectiveConfig, ModelConfig]] = {
    "simclr": (ObjectiveConfig(name="slip"), CONFIG),
    "mocov3-mim-attentive": (
        ObjectiveConfig(name="slip", ssl=("mocov3", "mim")),
        dataclasses.replace(CONFIG, masking="attentive"),
    ),
    "simclr-checkpointing": (ObjectiveConfig(name="slip"), dataclasses.replace(CONFIG, activation_checkpointing=True)),
}


def model_of(name: str) -> Model:
    """A small network of real parts, in float64: two blocks in a tower, and a few words."""
    objective, config = CASES[name]
    model = build_model(config, objective, seed=3).double()
    towers = [model.visual, *([cast(ImageTower, model.momentum.visual)] if model.needs.momentum_views else [])]
    for tower in towers:
        tower.blocks = cast(torch.nn.Sequential, tower.blocks[:2])
    model.transformer.resblocks = model.transformer.resblocks[:2]
    rows = model.token_embedding.weight.detach()[:VOCABULARY].clone()
    model.token_embedding = torch.nn.Embedding(len(rows), rows.shape[1], _weight=rows)
    return model


def batch_of(model: Model, step: int) -> TowerInputs:
    """The whole batch of one step."""
    draw = torch.Generator().manual_seed(step)
    size = (GLOBAL_BATCH, 3, 16, 16)
    views = tuple(torch.randn(size, dtype=torch.float64, generator=draw) for _ in model.needs.views)
    tokens = torch.randint(1, VOCABULARY - 1, (GLOBAL_BATCH, 7), generator=draw)
    tokens[torch.arange(GLOBAL_BATCH), torch.randint(1, 7, (GLOBAL_BATCH,), generator=draw)] = VOCABULARY - 1
    hidden = None
    if model.needs.hidden_view is not None:
        hidden = torch.rand((GLOBAL_BATCH, 4), generator=draw).argsort(dim=1)[:, :2]
    return TowerInputs(views=views, tokens=tokens, hidden=hidden)


def whole(tensor: Tensor) -> Tensor:
    """All of it, wherever its parts are."""
    found: Tensor = tensor.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found.clone()


def run_case(name: str, rank: int, *, sharded: bool, micro: int) -> dict[str, Any]:
    """Gradient descent with a momentum tower: terms, gradients, norms and weights of every step."""
    objective, model = CASES[name][0], model_of(name)
    if sharded:
        shard(model, World(rank=rank, world_size=WORLD_SIZE, local_rank=rank, device=torch.device("cpu")))
    exact = ExactBatch(model, objective, GradientAverager(model), micro_batch=micro)
    share = slice(rank * GLOBAL_BATCH // WORLD_SIZE, (rank + 1) * GLOBAL_BATCH // WORLD_SIZE)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found: dict[str, Any] = {"terms": [], "grads": [], "norm": [], "weights": []}
    for step in range(STEPS):
        _, terms = exact(rows_of(batch_of(model, step), share), seed=5)
        found["terms"].append(mean_over_ranks(terms))
        found["grads"].append({n: whole(p.grad) for n, p in trained.items() if p.grad is not None})
        found["norm"].append(float(gradient_norm(model)))
        with torch.no_grad():
            for parameter in trained.values():
                if parameter.grad is not None:
                    parameter.sub_(LR * parameter.grad)
        model.update_momentum(0.9)
        found["weights"].append({n: whole(w) for n, w in model.state_dict().items()})
    parameters = list(model.named_parameters())
    found["sharded"] = sorted(n for n, p in parameters if isinstance(p, DTensor))
    found["local"] = sum(p.to_local().numel() if isinstance(p, DTensor) else 0 for _, p in parameters)
    found["numel"] = sum(p.numel() if isinstance(p, DTensor) else 0 for _, p in parameters)
    return found


def main(folder: Path, rank: int) -> None:
    """All cases, whole and sharded, at once and in parts."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    results = {
        f"{name}/{'sharded' if sharded else 'whole'}/{micro}": run_case(name, rank, sharded=sharded, micro=micro)
        for name in CASES
        for sharded, micro in ((False, 0), *((True, micro) for micro in MICRO))
    }
    torch.save(results, folder / f"{rank}.pt")
    barrier()
    shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
