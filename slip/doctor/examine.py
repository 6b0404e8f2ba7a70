"""The whole check-up: every rank goes through the same checks in the same order, rank 0 gets what was found.

Each check measures on its ranks, tells rank 0, and is judged there by a pure function; an error is a row like others,
and the next check follows. The collective comes last: what hangs in it would let the rest unsaid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.errors import YfccError
from slip.doctor.clock_check import check_clocks
from slip.doctor.config import DoctorConfig
from slip.doctor.data_check import check_data
from slip.doctor.exchange import Exchange, Ranks, failures, in_one_line, judged
from slip.doctor.finding import Finding
from slip.doctor.output_check import VISIBLE_S, check_output
from slip.doctor.rank_check import CHECK as RANKS
from slip.doctor.rank_check import judge_ranks, rank_facts
from slip.doctor.reduce_check import CHECK as REDUCE
from slip.doctor.reduce_check import judge_reduced, measure_reduce
from slip.doctor.space_check import CHECK as SPACE
from slip.doctor.space_check import SpaceFacts, judge_space, space_facts
from slip.doctor.traces import Traces
from slip.doctor.version_check import CHECK as VERSIONS
from slip.doctor.version_check import judge_versions, versions
from slip.doctor.write_check import CHECK as WRITE
from slip.doctor.write_check import Written, judge_written, write_trial
from slip.world import World

logger = logging.getLogger(__name__)


def examine(config: DoctorConfig, world: World, exchange: Exchange, traces: Traces) -> tuple[list[Finding], Ranks]:
    """Make all checks; on rank 0 what they found, in the order they were made, elsewhere []."""
    ranks = exchange.meet()
    on_gpu = world.device.type == "cuda"
    leading, first = ranks.leads, ranks.rank == 0

    def look_at_ranks() -> list[Finding]:
        return judged(RANKS, exchange.gather("ranks", lambda: rank_facts(world)), judge_ranks)

    def look_at_versions() -> list[Finding]:
        return judged(VERSIONS, exchange.gather("versions", versions), judge_versions)

    def look_at_output() -> list[Finding]:
        return check_output(config.output, exchange, ranks, traces, min(VISIBLE_S, config.timeout_s / 3))

    def look_at_space() -> list[Finding]:
        def look() -> SpaceFacts:
            return space_facts(config.output, on_gpu=on_gpu, ranks_here=ranks.ranks_here)

        answers = exchange.gather("space", look if leading else None)
        return judged(SPACE, answers, lambda told: judge_space(told, config))

    def look_at_writing() -> list[Finding]:
        def write() -> Written:
            return write_trial(config.output, config.write_mb * 10**6, ranks.token, traces)

        answers = exchange.gather("write", write if first else None)
        return judged(
            WRITE, answers, lambda told: judge_written(told, config), "see that --output has room and answers"
        )

    def look_at_reduce() -> list[Finding]:
        if world.world_size == 1:
            text = "not tried: there is one rank; start the ranks of the run with srun or torchrun"
            return [Finding(level="WARN", check=REDUCE, where=ranks.nodes, found=text)]
        answers = exchange.gather("reduce", lambda: measure_reduce(world, config.reduce_mb * 10**6))
        return judged(REDUCE, answers, lambda told: judge_reduced(told, config))

    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("ranks and their devices", look_at_ranks),
        ("versions", look_at_versions),
        ("the output", look_at_output),
        ("space", look_at_space),
        ("clocks", lambda: check_clocks(exchange, ranks, config)),
        ("the data set", lambda: check_data(exchange, ranks, config, on_gpu=on_gpu)),
        ("a checkpoint", look_at_writing),
        ("all-reduce", look_at_reduce),
    ]
    found: list[Finding] = []
    for name, look in checks:
        logger.info("looking at %s", name)
        try:
            found += look()
        except YfccError:
            raise
        except Exception as error:  # of a judgement: a row as well, and the other checks go on
            logger.warning("looking at %s", name, exc_info=True)
            found.append(Finding(level="BAD", check=name, where=(ranks.node,), found=in_one_line(error)))
    return [*found, *_clean(exchange, ranks, traces)], ranks


def _clean(exchange: Exchange, ranks: Ranks, traces: Traces) -> list[Finding]:
    """Remove all that was written, rank 0 last, whose folder the others' files lie in; a row for what stays."""
    others = exchange.gather("clean-others", traces.clear if ranks.rank else None)
    own = exchange.gather("clean", None if ranks.rank else traces.clear)
    return [
        *failures("clean-up", [*others, *own]),
        *(
            Finding(
                level="BAD",
                check="clean-up",
                where=(answer.node,),
                found=left,
                advice="if it is there, remove it by hand",
            )
            for answer in [*others, *own]
            for left in answer.value or []
        ),
    ]
