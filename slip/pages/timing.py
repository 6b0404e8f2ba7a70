"""Where the wall time of a run went, as its records alone tell: training, waiting for data, everything else.

In: records of metrics.jsonl, each with its moment and the pace since the one before. Out: seconds. The run's own log
tells more kinds apart (`slip.goodput`); those lie in checkpoints, which need torch. What was done after a checkpoint
and then lost to a kill is cut from the records, so it counts as a pause here, as it should.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from slip.goodput import TIME
from slip.pages.run_files import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Wall time from the first record to the last; `training` and `elsewhere` add up to it."""

    wall_s: float
    training_s: float
    """In steps, waiting for data included."""
    data_s: float
    """Of `training_s`: waiting for data."""
    longest_pause_s: float
    """Between two records, beside their steps: a restart, an evaluation, a checkpoint."""
    pause_step: int
    """The step after which it came."""

    @property
    def elsewhere_s(self) -> float:
        """Start-up, checkpoints, evaluations, time lost to interruptions."""
        return self.wall_s - self.training_s

    @property
    def goodput(self) -> float:
        """Share (0 to 1) of the wall time in steps that did not wait for data."""
        return (self.training_s - self.data_s) / self.wall_s if self.wall_s > 0 else 0.0


def spent(records: Sequence[Record], global_batch: int) -> Spent | None:
    """Account for the time between records; None where fewer than two tell their moment and pace.

    A record without a pace (the first of an attempt may be) gets the median one. Clocks of two nodes may disagree: time
    that runs backwards counts as none.
    """
    timed = [record for record in records if TIME in record.values and "lr" in record.values]
    rates = [record.values["images_per_s"] for record in timed if record.values.get("images_per_s", 0) > 0]
    if len(timed) < 2 or not rates:
        return None
    median = statistics.median(rates)
    wall = training = data = longest = 0.0
    pause_step = timed[0].step
    for before, record in pairwise(timed):
        passed = max(0.0, record.values[TIME] - before.values[TIME])
        steps = record.step - before.step
        rate = record.values.get("images_per_s", 0)
        stepping = min(passed, steps * global_batch / (rate if rate > 0 else median))
        wall, training = wall + passed, training + stepping
        data += min(stepping, steps * record.values.get("time/data_s", 0.0))
        if passed - stepping > longest:
            longest, pause_step = passed - stepping, before.step
    return Spent(wall_s=wall, training_s=training, data_s=data, longest_pause_s=longest, pause_step=pause_step)
