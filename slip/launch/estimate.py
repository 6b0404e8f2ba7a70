"""What a launch will take and cost, in words: `slip plan`'s arithmetic for all runs together.

In: settings and runs. Out: lines for people. Where the data set's size is not known they say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import ConfigError
from slip.launch.runs import Run
from slip.launch.settings import LaunchConfig
from slip.plan_command import PlanConfig, count_samples
from slip.run_plan import GPUS, make_plan


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _gpu_hours(config: LaunchConfig, run: Run, gpus: int) -> float:
    asked = PlanConfig(gpus=gpus, gpu=config.gpu, mfu=config.mfu, run=run.config)
    samples, _ = count_samples(asked, run.recipe)
    gpu = GPUS[config.gpu.lower()]
    length = run.config.model.context_length
    plan = make_plan(run.config, gpu, gpus, epoch_samples=samples, mfu=config.mfu, text_length=length)
    return plan.hours * gpus


def estimate_lines(config: LaunchConfig, runs: Sequence[Run]) -> list[str]:
    """GPU-hours, hours and cost."""
    gpus = config.nodes * config.gpus_per_node
    if gpus == 0:
        return ["estimate  none: there are no GPUs"]
    if gpus != config.ranks:
        return [f"estimate  none: {config.ranks} ranks share {gpus} GPUs unequally; slip plan reckons with one on each"]
    try:
        each = [_gpu_hours(config, run, gpus) for run in runs]
    except ConfigError as error:
        return [f"estimate  none: {error}"]
    total, hours = sum(each), max(each) / gpus
    first = f"estimate  {_number(total)} GPU-hours on {gpus} {GPUS[config.gpu.lower()].name} at MFU {config.mfu:g}"
    if len(runs) > 1:
        first += f" ({_number(total / len(runs))} for each of {len(runs)} runs)"
    lines = [first, f"hours     {_number(hours)}{' for the longest run' if len(runs) > 1 else ''}"]
    if hours * 60 > config.time_min:
        lines[-1] += f": more than --time-min {config.time_min}, so the job begins again until it is done"
    if config.price is not None:
        lines.append(f"cost      {total * config.price:,.2f} at {config.price:g} a GPU-hour")
    return lines
