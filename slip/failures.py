"""What ends a run, in words: the errors of a loss that is not finite and of too many damaged samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import DivergedError, ShardError
from slip import checkpoint
from slip.config import TrainConfig
from slip.data.loader import Batch
from slip.distributed import World
from slip.models.model import Embeddings

_MAX_NAMED_SAMPLES = 16
_MAX_NAMED_DAMAGED = 5


def _suspects(batch: Batch, found: Embeddings) -> list[int]:
    """Ids of this rank's samples with an embedding that is not finite; of all its samples when every one is finite."""
    embeddings = [rows for rows in (found.image, found.text, *found.ssl) if rows is not None]
    finite_B = torch.stack([rows.isfinite().all(dim=1) for rows in embeddings]).all(dim=0).cpu()
    ids: list[int] = batch.sample_ids[~finite_B].tolist() or batch.sample_ids.tolist()
    return ids


def diverged(
    step: int, batch: Batch, found: Embeddings, terms: dict[str, Tensor], config: TrainConfig, world: World
) -> DivergedError:
    """The loss of `step` is not finite on all ranks; names this rank's values and samples."""
    values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
    ids = _suspects(batch, found)
    named = ", ".join(map(str, ids[:_MAX_NAMED_SAMPLES])) + (", ..." if len(ids) > _MAX_NAMED_SAMPLES else "")
    latest = checkpoint.newest(config.output)
    return DivergedError(
        f"step {step + 1}: the loss is not finite on all ranks; on rank {world.rank}: {values}; samples {named}; "
        f"the newest checkpoint is {latest or 'none'}: run again with a lower --optim.lr to go on from there"
    )


def too_damaged(num_damaged: int, own: list[str], config: TrainConfig) -> ShardError:
    """More samples are damaged, over all ranks, than the settings allow; `own` are this rank's in words."""
    named = "; ".join(own[:_MAX_NAMED_DAMAGED]) or "see the log of the other ranks"
    return ShardError(
        f"{named}; that makes {num_damaged} damaged samples on all ranks, --data.max-damaged allows "
        f"{config.data.max_damaged}: repair the data set (build_yfcc15m.py --stage repair), or raise the limit"
    )
