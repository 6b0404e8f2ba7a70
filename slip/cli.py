"""The console command `slip`: finds the verb and hands the rest of the line to its module.

A verb is a module with `main(argv) -> exit status`. Modules are imported when they are asked for, so that
`slip --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One subcommand."""

    module: str
    help: str


VERBS: dict[str, Verb] = {
    "train": Verb(module="slip.train", help="train CLIP, SimCLR or SLIP on sealed shards"),
    "plan": Verb(module="slip.plan_command", help="say what a run takes on which GPUs: memory, FLOPs, hours, cost"),
    "evaluate": Verb(
        module="slip.evaluate.command", help="evaluate a trained model on labelled sets: a table and a JSON file"
    ),
    "launch": Verb(module="slip.launch.command", help="train as Slurm jobs; launch status, logs, cancel"),
    "doctor": Verb(module="slip.doctor.command", help="check nodes, bucket, network and disks before a run"),
    "export": Verb(
        module="slip.interchange.command", help="write a trained model for open_clip, timm, safetensors or ONNX"
    ),
    "card": Verb(module="slip.pages.card_command", help="write a run's model card"),
    "compare": Verb(module="slip.pages.compare_command", help="compare runs on one HTML page"),
    "index": Verb(
        module="slip.index_shards", help="make a manifest for WebDataset tars of others, by one pass over them"
    ),
    "ledger": Verb(module="slip.ledger", help="prove from a run's ledger that each sample was used once per epoch"),
    "bench": Verb(module="slip.bench_input", help="measure the input pipeline on your shards and cores: bench input"),
    "inspect": Verb(module="slip.inspect_data", help="show counts, shuffle quality and a grid of a data set's samples"),
}


def usage() -> str:
    """The text of `slip --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(["usage: slip VERB [options]", "", *lines, "", "slip VERB --help explains the options of a verb."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 done, 1 error, 2 usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        (sys.stdout if words else sys.stderr).write(usage() + "\n")
        return 0 if words else 2
    verb = VERBS.get(words[0])
    if verb is None:
        sys.stderr.write(f"slip: no verb {words[0]!r}; there is: {', '.join(VERBS)} (slip --help)\n")
        return 2
    status: int = importlib.import_module(verb.module).main(words[1:])
    return status
