"""Everything of a run that changes from step to step, into a checkpoint and back, on any number of ranks.

In: model, optimizer and counters. Out: a `checkpoint.State`, whole even where towers are sharded; and the reverse.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from slip import checkpoint
from slip.config import TrainConfig
from slip.models.ema import WeightAverage
from slip.models.model import Model
from slip.run_data import RunData

logger = logging.getLogger(__name__)

_WHOLE = StateDictOptions(full_state_dict=True)


@dataclass(slots=True, kw_only=True, eq=False)
class RunState:
    """The changing parts of a run."""

    model: Model
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0
    """Optimizer steps done."""
    skipped: int = 0
    """Steps left out because their loss or gradient was not finite."""
    best: float = -1.0
    """Best zero-shot accuracy (0 to 1) so far; -1 before any."""

    def resume(self, config: TrainConfig, data: RunData) -> dict[str, float]:
        """Go on from the newest checkpoint of the run, if there is one; the seconds its attempts have spent."""
        url = checkpoint.newest(config.output)
        if url is None:
            return {}
        state = checkpoint.load(url)
        checkpoint.check(state, url, config, data_sha256=data.digest, lanes=data.lanes)
        set_model_state_dict(self.model, dict(state.model), options=_WHOLE)
        # Moments are the checkpoint's, but decay, betas and the like are today's settings.
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        set_optimizer_state_dict(self.model, self.optimizer, state.optimizer, options=_WHOLE)
        for group, today in zip(self.optimizer.param_groups, options, strict=True):
            group.update(today)
        if self.average is not None and state.ema is not None:
            for name, weight in self.average.weights.items():
                _copy(weight, state.ema[name])
        checkpoint.restore_random_states(state.random)
        self.step, self.skipped = state.step, state.skipped
        best = checkpoint.best(config.output)
        self.best = best[1] if best is not None else -1.0
        logger.info("resuming from %s: %d steps and %d samples are done", url, state.step, state.samples)
        for name, (was, now) in checkpoint.differences(state, config).items():
            logger.info("setting %s was %r until this checkpoint and is now %r", name, was, now)
        return state.goodput

    def gather(self, config: TrainConfig, data: RunData, goodput: dict[str, float]) -> checkpoint.State:
        """The run as it is; every rank must call it."""
        average = None
        if self.average is not None:
            average = {name: _whole(weight) for name, weight in self.average.weights.items()}
        return checkpoint.State(
            step=self.step,
            samples=self.step * config.optim.global_batch,
            model=cast(dict[str, Tensor], get_model_state_dict(self.model, options=_WHOLE)),
            optimizer=get_optimizer_state_dict(self.model, self.optimizer, options=_WHOLE),
            ema=average,
            config=dataclasses.asdict(config),
            data_sha256=data.digest,
            objective=config.objective.name,
            gather=config.objective.gather,
            lanes=data.lanes,
            skipped=self.skipped,
            random=checkpoint.random_states(),
            goodput=goodput,
        )


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


@torch.no_grad()
def _copy(into: Tensor, whole: Tensor) -> None:
    if isinstance(into, DTensor):
        whole = distribute_tensor(whole.to(into.device), into.device_mesh, into.placements)
    into.copy_(whole)
