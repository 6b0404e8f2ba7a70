"""How many of the nodes that a batch job was given its run can use; slurm/train_slip.sh asks before the ranks start.

In: the job's nodes, from Slurm's variable, the ranks of each, and the options of `slip train`. Out: a number on
standard output. A job that asks for a range of nodes (--nodes=4-8) begins again on fewer when one is lost; the global
batch has to divide over the ranks. Settings that cannot be are found here, once, and not by every rank. No torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from pipeline.errors import ConfigError
from slip.command import run_verb
from slip.train import check_manifests, parse

logger = logging.getLogger(__name__)


def usable_nodes(num_nodes: int, ranks_per_node: int, global_batch: int) -> int:
    """The most nodes, up to `num_nodes`, over whose ranks the batch divides: 7 nodes of 8 ranks, batch 4096 -> 4."""
    for nodes in range(num_nodes, 0, -1):
        if global_batch % (nodes * ranks_per_node) == 0:
            return nodes
    raise ConfigError(
        f"--optim.global-batch is {global_batch}; it must be a multiple of the ranks of a node, {ranks_per_node} "
        "(--gpus-per-node)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the number of nodes; the first argument is the number of ranks on each, the others are of `slip train`."""

    def work() -> int:
        ranks, *options = sys.argv[1:] if argv is None else argv
        given, per_node = int(os.environ["SLURM_JOB_NUM_NODES"]), int(ranks)
        config = parse(options)
        check_manifests(config)
        used = usable_nodes(given, per_node, config.optim.global_batch)
        if used < given:
            logger.warning(
                "%d samples a step do not divide over %d nodes of %d ranks: %d nodes are used",
                *(config.optim.global_batch, given, per_node, used),
            )
        sys.stdout.write(f"{used}\n")
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
