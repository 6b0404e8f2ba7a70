"""SLIP on captioned CIFAR-10: real pictures through the whole product, on a CPU.

Comes in: a Parquet table of CIFAR-10 with columns split ("train" or "test"), label (the
class's name) and jpg (bytes).
Goes out: captioned shards built from a local table, the test pictures in CLIP_benchmark's layout, a trained
run, and one line with the zero-shot accuracy on the test pictures.

    python tests/bench/cifar10.py --parquet cifar10.parquet --folder data/cifar10 --evaluate -- --optim.epochs 5

What stands after `--` goes to slip.train. With --evaluate the run is then evaluated by all five protocols, on all test
pictures (500 for retrieval) and 6,000 training pictures, with few epochs. The captions are drawn from class names and
a handful of phrases by the picture's number, so the text carries the class and nothing else: this shows that training
and evaluation work together on real photographs, not what SLIP reaches on captions people wrote.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WORDS = {
    "airplane": ("airplane", "plane", "jet"),
    "automobile": ("automobile", "car"),
    "bird": ("bird", "little bird"),
    "cat": ("cat", "kitten"),
    "deer": ("deer", "young deer"),
    "dog": ("dog", "puppy"),
    "frog": ("frog", "toad"),
    "horse": ("horse", "pony"),
    "ship": ("ship", "boat"),
    "truck": ("truck", "lorry"),
}
PHRASES = (
    "a {} I saw today",
    "this is a photo of a {}",
    "a picture of the {}",
    "my favourite {} in town",
    "look at this {}",
    "a small photo of one {}",
    "the {} we met on our trip",
)
NUM_TRAIN, NUM_CAPTIONED = 6000, 500
PROTOCOLS = ("zeroshot", "knn", "linear", "finetune", "retrieval")
# For minutes on a CPU; the published recipes take 90 and 100 epochs.
SHORTER = [
    *("--linear.epochs", "20", "--finetune.epochs", "10", "--finetune.warmup-epochs", "2"),
    *("--finetune.batch", "256", "--finetune.lr", "1e-3"),
]
# A few of the prompts OpenAI published for CIFAR-10 (github.com/openai/CLIP, notebook on prompt engineering).
TEMPLATES = ("a photo of a {c}.", "a blurry photo of a {c}.", "a low contrast photo of a {c}.", "a photo of the {c}.")


def write_captions(table: pa.Table, path: Path) -> None:
    """The training pictures as a table for `--dataset local`: image, caption, key."""
    captions = []
    for number, label in enumerate(table["label"].to_pylist()):
        words = WORDS[label]
        captions.append(PHRASES[number * 7919 % len(PHRASES)].format(words[number * 104729 % len(words)]))
    keys = [f"{number:05d}" for number in range(len(captions))]
    pq.write_table(pa.table({"key": keys, "image": table["jpg"].combine_chunks(), "caption": captions}), path)


def write_labelled(table: pa.Table, folder: Path) -> None:
    """The test pictures in CLIP_benchmark's WebDataset layout."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    (folder / "test/nshards.txt").write_text("1")
    with tarfile.open(folder / "test/0.tar", "w") as tar:
        for number, (label, jpg) in enumerate(zip(table["label"].to_pylist(), table["jpg"].to_pylist(), strict=True)):
            for extension, data in (("jpg", jpg), ("cls", str(CLASSES.index(label)).encode())):
                member = tarfile.TarInfo(f"{number:05d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_sets(table: pa.Table, folder: Path) -> Path:
    """Labelled pictures with a train split, and pictures with two captions each; the catalogue that names both."""
    train, test = (table.filter(pa.compute.equal(table["split"], split)) for split in ("train", "test"))
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.concat_tables([train.slice(0, NUM_TRAIN), test]), folder / "cifar10.parquet")
    some = test.slice(0, NUM_CAPTIONED)
    captions = [[f"a photo of a {label}", f"look at this {label}"] for label in some["label"].to_pylist()]
    pq.write_table(pa.table({"image": some["jpg"].combine_chunks(), "captions": captions}), folder / "said.parquet")
    catalogue = folder / "datasets.toml"
    catalogue.write_text('[cifar10]\nurl = "cifar10.parquet"\n\n[said]\nurl = "said.parquet"\n')
    return catalogue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", required=True, type=Path)
    parser.add_argument("--folder", required=True, type=Path, help="where shards and run are written")
    parser.add_argument("--evaluate", action="store_true", help="by all protocols, after training")
    parser.add_argument("train_flags", nargs="*", help="after --: flags of slip.train")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(args.parquet)
    labelled = args.folder / "labelled"
    if not (labelled / "test/0.tar").exists():
        write_captions(table.filter(pa.compute.equal(table["split"], "train")), args.folder / "captions.parquet")
        write_labelled(table.filter(pa.compute.equal(table["split"], "test")), labelled)
    build = ["pipeline/build_yfcc15m.py", "--dataset", "local", "--metadata", str(args.folder / "captions.parquet")]
    build += ["--output", str(args.folder / "shards"), "--samples-per-shard", "2000"]
    train = ["-m", "slip.train", "demo", "--data.manifest", str(args.folder / "shards/manifest.json")]
    train += ["--eval.zeroshot", str(labelled), "--output", str(args.folder / "run"), "--model.image-size", "32"]
    train += ["--optim.global-batch", "256", *args.train_flags]
    commands = [build, train]
    if args.evaluate:
        catalogue = write_sets(table, args.folder / "sets")
        evaluate = ["-m", "slip", "evaluate", str(args.folder / "run"), "--catalogue", str(catalogue)]
        evaluate += ["--suite", "cifar10", "--captioned", "said", "--protocol", *PROTOCOLS, *SHORTER]
        commands.append(evaluate)
    for command in commands:
        logging.info("python %s", " ".join(command))
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env=os.environ)


if __name__ == "__main__":
    main()
