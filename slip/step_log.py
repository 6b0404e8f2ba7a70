"""What is said about steps while a run goes on: a record in the metrics and a line in the log, a live line in between.

In: what each step took and found. Out: rates, MFU and losses of the global batch, to `slip.metrics` and the log.
"""

from __future__ import annotations

import logging
import math
import resource
import sys

import torch
from torch import Tensor

from slip.config import TrainConfig
from slip.distributed import mean_over_ranks
from slip.metrics import LiveLine, Metrics, StepClock, progress_line
from slip.model_cost import flops_per_sample
from slip.models.model import Model
from slip.peak_flops import mfu, peak_flops
from slip.schedule import lr_at
from slip.world import World

logger = logging.getLogger(__name__)


def _peak_memory_bytes(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device)
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measured(terms: dict[str, Tensor], norm: Tensor, model: Model, world: World) -> dict[str, float | int | None]:
    """The numbers of one step for the metrics; losses and accuracies are those of the global batch."""
    means = mean_over_ranks(terms)
    return {
        **{name: means[name] for name in terms},
        "grad_norm": float(norm),
        "logit_scale": float(model.logit_scale.detach().exp()) if model.has_text else None,
        "memory/peak_bytes": _peak_memory_bytes(world),
    }


class StepLog:
    """Every rank has one, since numbers are averaged over ranks; the first one's are written."""

    def __init__(
        self,
        config: TrainConfig,
        metrics: Metrics,
        world: World,
        *,
        last_step: int,
        steps_per_epoch: float,
        dtype: torch.dtype,
    ) -> None:
        self._config, self._metrics, self._world = config, metrics, world
        self._last_step, self._steps_per_epoch = last_step, steps_per_epoch
        # On a CPU it is measured, which takes a second.
        self._peak, source = peak_flops(world.device, dtype) if world.main_rank else (math.inf, "rank 0 knows")
        logger.info("MFU is the share of %.3g TFLOP/s a device (%s)", self._peak / 1e12, source)
        self._clock = StepClock(global_batch=config.optim.global_batch)
        self._num_tokens, self._num_steps = 0.0, 0
        self._record: dict[str, float | int | None] = {}
        self._data_share: float | None = None

    def add(self, *, step_s: float, data_s: float, text_length: float) -> None:
        """A step took so long, `data_s` of it waiting for data; of a caption `text_length` tokens were computed."""
        self._clock.add(step_s=step_s, data_s=data_s)
        self._num_steps += 1
        self._num_tokens += text_length

    def write(self, step: int, terms: dict[str, Tensor], norm: Tensor, model: Model, **counts: int) -> None:
        """Record the last step and the pace since the last record; every rank must call it."""
        images_per_s, wait_s, self._data_share = self._clock.take()
        record: dict[str, float | int | None] = {"step": step, "epoch": step / self._steps_per_epoch}
        record |= _measured(terms, norm, model, self._world)
        record |= {"lr": lr_at(step - 1, self._config.optim, steps_per_epoch=self._steps_per_epoch)}
        record |= {"images_per_s": images_per_s, "time/data_s": wait_s, **counts}
        if images_per_s is not None:
            flops = flops_per_sample(self._config, round(self._num_tokens / self._num_steps))
            record["mfu"] = mfu(flops, images_per_s, self._world.world_size, self._peak)
        self._num_tokens, self._num_steps = 0.0, 0
        self._record = record
        self._metrics.write(record)
        logger.info("%s", self._line(step))

    def show(self, step: int, live: LiveLine) -> None:
        """The last record's numbers on the live line, with where the run is now."""
        if self._world.main_rank:
            live.show(self._line(step))

    def _line(self, step: int) -> str:
        eta_s = self._clock.eta_s(self._last_step - step)
        return progress_line(
            {**self._record, "step": step}, steps=self._last_step, data_share=self._data_share, eta_s=eta_s
        )
