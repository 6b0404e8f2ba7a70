"""Objectives side by side on captioned CIFAR-10: zero-shot and kNN accuracy, several seeds, and what each costs.

Comes in: a Parquet table of CIFAR-10 (see cifar10.py, which makes shards and captions of it). Goes out: a table.

    python tests/bench/objectives.py --parquet cifar10.parquet --folder runs/objectives --seeds 3 --epochs 4 --pictures
    10000

Every method has the same pictures, epochs, batch, learning rate and augmentation; SimCLR sees no caption, so it has no
zero-shot accuracy. Run the same command again to go on.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slip import checkpoint
from slip.config import ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from slip.data.augment import normalise
from slip.evaluate.knn import knn_classes
from slip.model_cost import flops_per_sample
from slip.models.model import Model
from slip.models.registry import build_model
from tests.bench.cifar10 import CLASSES, write_captions, write_labelled

ROOT = Path(__file__).resolve().parents[2]
METHODS: dict[str, tuple[str, ...]] = {
    "CLIP": ("--objective.name", "clip"),
    "SimCLR": ("--objective.name", "simclr", "--eval.zeroshot", "None"),
    "SLIP": ("--objective.name", "slip"),
    "SLIP with MoCo v3": ("--objective.name", "slip", "--objective.ssl", "mocov3"),
    "A-CLIP": (
        *("--objective.name", "slip", "--objective.ssl", "simclr", "byol", "--objective.clip-view", "shared"),
        *("--model.masking", "attentive", "--model.momentum-scale", "0.5", "--objective.momentum", "0.996"),
    ),
}
# Student's t, 97.5 %, by degrees of freedom.
T_975 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}


def features(model: Model, jpgs: list[bytes]) -> Tensor:
    """The image tower's features of pictures."""
    found = []
    with torch.inference_mode():
        for first in range(0, len(jpgs), 500):
            pixels = [torch.frombuffer(bytearray(Image.open(io.BytesIO(jpg)).convert("RGB").tobytes()),
            dtype=torch.uint8)
                      for jpg in jpgs[first : first + 500]]  # fmt: skip
            views = torch.stack(pixels).view(-1, 32, 32, 3).permute(0, 3, 1, 2)
            found.append(model.image_features(normalise(views)))
    return torch.cat(found)


def knn_accuracy(run: Path, bank: pa.Table, test: pa.Table) -> float:
    """Share (0 to 1) of the test pictures that their neighbours among the training pictures classify right."""
    url = checkpoint.newest(str(run))
    assert url is not None
    state = checkpoint.load(url)
    model = build_model(ModelConfig(**state.config["model"]), ObjectiveConfig(**state.config["objective"]))
    model.load_state_dict(state.model)
    model.eval()
    labels = [torch.tensor([CLASSES.index(label) for label in table["label"].to_pylist()]) for table in (bank, test)]
    rows = [features(model, table["jpg"].to_pylist()) for table in (bank, test)]
    return float((knn_classes(rows[1], rows[0], labels[0], len(CLASSES)) == labels[1]).float().mean())


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval of Student's t, in percent."""
    if not values:
        return "-"
    mean = 100 * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    half = 100 * T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f}"


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", required=True, type=Path)
    parser.add_argument("--folder", required=True, type=Path, help="where shards and runs are written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--pictures", type=int, default=10_000, help="captioned pictures to train on")
    parser.add_argument("--tests", type=int, default=2_000, help="pictures to classify")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--at-once", type=int, default=1, help="runs beside each other")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(args.parquet)
    # The table is sorted by class: every n-th picture.
    train, test = (table.filter(pa.compute.equal(table["split"], split)) for split in ("train", "test"))
    train = train.take(list(range(0, len(train), len(train) // args.pictures))[: args.pictures])
    test = test.take(list(range(0, len(test), len(test) // args.tests))[: args.tests])
    if not (folder / "shards/manifest.json").exists():
        write_captions(train, folder / "captions.parquet")
        write_labelled(test, folder / "labelled")
        build = ["pipeline/build_yfcc15m.py", "--dataset", "local", "--metadata", str(folder / "captions.parquet")]
        build += ["--output", str(folder / "shards"), "--samples-per-shard", "2000"]
        subprocess.run([sys.executable, *build], cwd=ROOT, check=True)

    def run(job: tuple[str, int]) -> Path:
        method, seed = job
        output: Path = folder / f"{method.replace(' ', '-')}-{seed}"
        flags = ["--data.manifest", str(folder / "shards/manifest.json"), "--eval.zeroshot", str(folder / "labelled")]
        flags += ["--eval.every-epochs", "1000", "--optim.global-batch", str(args.batch), "--optim.lr", "1e-3"]
        flags += ["--optim.epochs", str(args.epochs), "--seed", str(seed), "--output", str(output)]
        flags += ["--keep-checkpoints", "1", "--checkpoint-every", "100000", "--log-every", "50"]
        logging.info("%s, seed %d", method, seed)
        command = [sys.executable, "-m", "slip.train", "demo", *flags, *METHODS[method]]
        with (folder / f"{output.name}.log").open("ab") as log:
            subprocess.run(command, cwd=ROOT, check=True, stderr=log, env=os.environ)
        return output

    jobs = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    with ThreadPoolExecutor(args.at_once) as pool:
        outputs = dict(zip(jobs, pool.map(run, jobs), strict=True))
    print("| objective | zero-shot top-1 % | kNN top-1 % | MFLOP a sample | compute seconds a run |")
    print("|---|---|---|---|---|")
    for method in args.methods:
        zeroshot: list[float] = []
        nearest: list[float] = []
        seconds: list[float] = []
        for seed in range(args.seeds):
            output = outputs[method, seed]
            records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
            zeroshot += [record["zeroshot/top1"] for record in records if "zeroshot/top1" in record][-1:]
            nearest.append(knn_accuracy(output, train, test))
            url = checkpoint.newest(str(output))
            assert url is not None
            state = checkpoint.load(url)
            seconds.append(state.goodput["compute"])
        settings = state.config
        config = TrainConfig(
            model=ModelConfig(**settings["model"]),
            objective=ObjectiveConfig(**settings["objective"]),
            optim=OptimConfig(**settings["optim"]),
        )
        cost = f"{flops_per_sample(config, 10) / 1e6:.0f} | {statistics.median(seconds):.0f}"
        print(f"| {method} | {interval(zeroshot)} | {interval(nearest)} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
