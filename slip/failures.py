"""What ends a run, in words: the errors of losses that are not finite and of too many damaged samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import DivergedError, ShardError
from slip import checkpoint
from slip.config import TrainConfig
from slip.data.loader import Batch
from slip.objectives.embeddings import Embeddings
from slip.world import World

_MAX_NAMED_SAMPLES = 16
_MAX_NAMED_DAMAGED = 5


def _suspects(batch: Batch, found: Embeddings) -> list[int]:
    """Ids of this rank's samples with an embedding that is not finite; of all its samples when every one is finite."""
    finite_B = torch.stack([rows.isfinite().flatten(1).all(dim=1) for rows in found.rows()]).all(dim=0).cpu()
    ids: list[int] = batch.sample_ids[~finite_B].tolist() or batch.sample_ids.tolist()
    return ids


def not_finite(step: int, batch: Batch, found: Embeddings, terms: dict[str, Tensor], norm: Tensor, world: World) -> str:
    """The loss or gradient of `step` is not finite on all ranks: this rank's values and samples."""
    values = ", ".join(f"{name} {value.item():g}" for name, value in {**terms, "grad_norm": norm}.items())
    ids = _suspects(batch, found)
    named = ", ".join(map(str, ids[:_MAX_NAMED_SAMPLES])) + (", ..." if len(ids) > _MAX_NAMED_SAMPLES else "")
    return (
        f"step {step + 1}: the loss or its gradient is not finite on all ranks; on rank {world.rank}: {values}; "
        f"samples {named}"
    )


def diverged(what: str, skipped: int, config: TrainConfig) -> DivergedError:
    """More steps than allowed were not finite; `what` is the last of them in words."""
    latest = checkpoint.newest(config.output)
    return DivergedError(
        f"{what}; that makes {skipped} such steps, --max-skipped allows {config.max_skipped}; the newest checkpoint is "
        f"{latest or 'none'}: run again with a lower --optim.lr to go on from there"
    )


def too_damaged(num_damaged: int, own: list[str], config: TrainConfig) -> ShardError:
    """More samples are damaged, over all ranks, than the settings allow; `own` are this rank's in words."""
    named = "; ".join(own[:_MAX_NAMED_DAMAGED]) or "see the log of the other ranks"
    return ShardError(
        f"{named}; that makes {num_damaged} damaged samples on all ranks, --data.max-damaged allows "
        f"{config.data.max_damaged}: repair the data set (build_yfcc15m.py --stage repair), or raise the limit"
    )
