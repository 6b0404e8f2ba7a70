"""Two data sets in lock-step: captioned pictures with their views, and other pictures with theirs, as one batch.

For SLIP with self-supervision on separate pictures (2112.12750, sec. 5): step by step as many of both, each in the
order of its own plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from slip.data.loader import Batch


def paired(captioned: Iterator[Batch], others: Iterator[Batch]) -> Iterator[Batch]:
    """Batches whose first views are of captioned pictures and whose further views are of others; ids are the
    former's."""
    for batch, other in zip(captioned, others, strict=True):
        both = [params for params in (batch.params_VBP, other.params_VBP) if params is not None]
        yield dataclasses.replace(
            batch,
            views=batch.views + other.views,
            params_VBP=torch.cat(both) if both else None,
            keep=batch.keep + other.keep,
            hidden=other.hidden,
            data_wait_s=batch.data_wait_s + other.data_wait_s,
        )
