"""How long the fast linear probe takes to the minimum, and how near it comes, beside scikit-learn's solvers.

Comes in: a run or checkpoint and a labelled set, as `slip evaluate` takes them.
Goes out: for each penalty and solver the seconds and how far above the least loss any of them found it ends; they take
turns.

    python tests/bench/linear_fast.py --checkpoint RUN --set cifar10 --catalogue datasets.toml
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slip.data.worker_count import cores_of_this_rank
from slip.evaluate import trained
from slip.evaluate.catalogue import load_catalogue, open_set
from slip.evaluate.encode import Encoded, encode
from slip.evaluate.linear_fast import fit
from slip.evaluate.training_views import linear_test_view, trained_on
from slip.world import World

Numbers = npt.NDArray[np.float64]
ALONE = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
ROUNDS = 3
EXPONENTS = (2, 0, -2, -4)


def features(checkpoint: str, name: str, catalogue: str | None) -> tuple[Encoded, int]:
    """Of the train split, and the number of classes."""
    model = trained.load(trained.find(checkpoint).url, None)
    labelled = open_set(name, load_catalogue(catalogue))
    found = encode(
        model,
        trained_on(labelled),
        world=ALONE,
        view=partial(linear_test_view, size=model.config.image_size),
        batch=256,
        workers=cores_of_this_rank(),
        what="feature",
    )
    return found, len(labelled.classnames)


def ours(rows: Encoded, num_classes: int, l2: float) -> tuple[Numbers, Numbers]:
    """Weights and biases."""
    found = fit(rows, num_classes, l2, world=ALONE)
    return found.weight_CW.numpy(), found.bias_C.numpy()


def theirs(rows: Encoded, num_classes: int, l2: float, *, solver: str) -> tuple[Numbers, Numbers]:
    """The same by scikit-learn, in float64, with as many iterations and the tolerance CLIP's probe has."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # That it stopped after its last iteration shows in the loss.
        warnings.simplefilter("ignore")
        found = LogisticRegression(C=1 / l2, solver=solver, max_iter=1000).fit(
            rows.values_NW.double().numpy(), rows.labels_N.numpy()
        )
    return found.coef_, found.intercept_


def loss(rows: Encoded, l2: float, weight_CW: Numbers, bias_C: Numbers) -> float:
    """Mean over the pictures of what is minimised."""
    logits_NC = rows.values_NW.double().numpy() @ weight_CW.T + bias_C
    largest_N1 = logits_NC.max(axis=1, keepdims=True)
    log_sum_N = np.log(np.exp(logits_NC - largest_N1).sum(axis=1)) + largest_N1[:, 0]
    surprise = (log_sum_N - logits_NC[np.arange(len(rows)), rows.labels_N.numpy()]).sum()
    return float(surprise + l2 / 2 * np.square(weight_CW).sum()) / len(rows)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run folder or checkpoint")
    parser.add_argument("--set", required=True, help="a name of the catalogue, or a place")
    parser.add_argument("--catalogue", help="catalogue file")
    words = parser.parse_args()
    rows, num_classes = features(words.checkpoint, words.set, words.catalogue)
    print(f"{len(rows)} pictures, {rows.values_NW.shape[1]} features, {num_classes} classes; {ROUNDS} rounds, medians")
    solvers: dict[str, Callable[[Encoded, int, float], tuple[Numbers, Numbers]]] = {
        "ours": ours,
        "scikit-learn lbfgs": partial(theirs, solver="lbfgs"),
        "scikit-learn newton-cholesky": partial(theirs, solver="newton-cholesky"),
    }
    print("| L2 penalty | solver | s | ratio | loss above the least |\n|---|---|---|---|---|")
    for exponent in EXPONENTS:
        l2 = 10.0**exponent
        seconds: dict[str, list[float]] = {name: [] for name in solvers}
        found: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name, solve in solvers.items():
                began = time.perf_counter()
                answer = solve(rows, num_classes, l2)
                seconds[name].append(time.perf_counter() - began)
                found[name] = loss(rows, l2, *answer)
        least = min(found.values())
        for name, taken in seconds.items():
            ratio = statistics.median(other / own for other, own in zip(taken, seconds["ours"], strict=True))
            print(f"| {l2:g} | {name} | {statistics.median(taken):.2f} | {ratio:.1f} | {found[name] - least:.1e} |")


if __name__ == "__main__":
    main()
