"""Does the fast mode train as well as the reference? The same recipe with both, several seeds, zero-shot accuracy.

Comes in: nothing but the embedded sample (built if it is not there), or flags that name other data. Goes out: a table.

    python tests/bench/augment_modes.py --folder runs/modes --seeds 3 -- --optim.epochs 10

What stands after `--` goes to slip.train. Run the same command again to go on.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODES = {
    "reference": ("--data.augment", "reference"),
    "fast": ("--data.augment", "fast", "--data.colours", "workers"),
    "fast-device": ("--data.augment", "fast", "--data.colours", "device"),
}


def result(run: Path) -> tuple[float, float]:
    """Last zero-shot accuracy (0 to 1) and last loss of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    top1 = next(record["zeroshot/top1"] for record in reversed(records) if "zeroshot/top1" in record)
    loss = next(record["loss"] for record in reversed(records) if "loss" in record)
    return top1, loss


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="where the runs are written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("train_flags", nargs="*", help="after --: flags of slip.train")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not (ROOT / "data/yfcc15m-sample/manifest.json").exists():
        subprocess.run([sys.executable, "pipeline/build_yfcc15m.py"], cwd=ROOT, check=True)
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in args.modes}
    for seed in range(args.seeds):
        for mode in args.modes:
            run = args.folder.resolve() / f"{mode}-{seed}"
            flags = ["--output", str(run), "--seed", str(seed), *MODES[mode], *args.train_flags]
            logging.info("%s, seed %d", mode, seed)
            subprocess.run([sys.executable, "-m", "slip.train", "demo", *flags], cwd=ROOT, check=True)
            found[mode].append(result(run))
    print("| mode | zero-shot top-1, each seed | mean (standard deviation) | last loss, mean |\n|---|---|---|---|")
    for mode, results in found.items():
        accuracies = [100 * top1 for top1, _ in results]
        deviation = f" ({statistics.stdev(accuracies):.1f})" if len(accuracies) > 1 else ""
        each = ", ".join(f"{accuracy:.1f} %" for accuracy in accuracies)
        loss = statistics.mean(loss for _, loss in results)
        print(f"| {mode} | {each} | {statistics.mean(accuracies):.1f} %{deviation} | {loss:.3f} |")


if __name__ == "__main__":
    main()
