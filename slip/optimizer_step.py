"""One optimizer step, taken by all ranks together or left out by all of them.

In: a batch on the device. Out: its terms and gradient norm; weights, momentum tower, average of the weights and the
count of steps left out have moved on. What a step is for (logs, checkpoints, evaluation) is the loop's part.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from torch import Tensor

from slip.config import TrainConfig
from slip.data.device_feed import DeviceBatch
from slip.distributed import all_ranks
from slip.exact_batch import ExactBatch
from slip.failures import diverged, not_finite
from slip.gradients import GradientAverager, gradient_norm
from slip.models.momentum import momentum_at
from slip.optim import set_lr
from slip.run_state import RunState
from slip.schedule import lr_at, total_steps
from slip.world import World

logger = logging.getLogger(__name__)


class StepMaker:
    """One optimizer step: gradients of the global batch, and weights moved by them if all ranks find them finite."""

    def __init__(
        self,
        config: TrainConfig,
        state: RunState,
        world: World,
        *,
        steps_per_epoch: float,
        autocast: AbstractContextManager[object],
    ) -> None:
        self._config, self._state, self._world, self._steps_per_epoch = config, state, world, steps_per_epoch
        self._last_step = total_steps(config.optim, steps_per_epoch=steps_per_epoch)
        self._exact = ExactBatch(
            state.model,
            config.objective,
            GradientAverager(state.model),
            micro_batch=config.optim.micro_batch,
            autocast=autocast,
        )

    def __call__(self, fed: DeviceBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Terms and gradient norm of the step; DivergedError when too many were not finite."""
        config, state, model = self._config, self._state, self._state.model
        buffers = [buffer.clone() for buffer in model.buffers()]
        seed = (config.seed * 1_000_003 + state.step) * 65_537 + self._world.rank
        found, terms = self._exact(fed.inputs, seed=seed)
        norm = gradient_norm(model)
        if all_ranks(terms["loss"].isfinite() & norm.isfinite()):
            set_lr(state.optimizer, lr_at(state.step, config.optim, steps_per_epoch=self._steps_per_epoch))
            state.optimizer.step()
            model.clamp_logit_scale()
            model.update_momentum(momentum_at(state.step, self._last_step, config.objective.momentum))
            if state.average is not None:
                state.average.update()
            return terms, norm
        # Neither weights nor batch-norm statistics have seen this batch.
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        state.skipped += 1
        what = not_finite(state.step, fed.batch, found, terms, norm, self._world)
        if state.skipped > config.max_skipped:
            raise diverged(what, state.skipped, config)
        logger.warning("%s; left out (%d of at most %d)", what, state.skipped, config.max_skipped)
        return terms, norm
