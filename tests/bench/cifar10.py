"""SLIP on captioned CIFAR-10: real pictures through the whole product, on a CPU.

Comes in: a Parquet table of CIFAR-10 with columns split ("train" or "test"), label (the
class's name) and jpg (bytes).
Goes out: captioned shards built from a local table, the test pictures in CLIP_benchmark's layout, a trained
run, and one line with the zero-shot accuracy on the test pictures.

    python tests/bench/cifar10.py --parquet cifar10.parquet --folder data/cifar10 -- --optim.epochs 5

What stands after `--` goes to slip.train. The captions are drawn from class names and a handful of phrases by the
picture's number, so the text carries the class and nothing else: this shows that training and zero-shot evaluation
work together on real photographs, not what SLIP reaches on captions people wrote.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", required=True, type=Path)
    parser.add_argument("--folder", required=True, type=Path, help="where shards and run are written")
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
    for command in (build, train):
        logging.info("python %s", " ".join(command))
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env=os.environ)


if __name__ == "__main__":
    main()
