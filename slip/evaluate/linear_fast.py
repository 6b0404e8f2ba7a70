"""The fast linear probe: multinomial logistic regression by L-BFGS on features computed once.

In: features and labels of the train split, on all ranks. Out: the classifier, with the L2 penalty that did best on
pictures held out of it. The protocol is CLIP's (2103.00020, A.3): penalties over twelve decades, searched coarse to
fine; after that a last fit on everything. What is minimised is scikit-learn's objective (LogisticRegression with C =
1 / penalty): the sum of cross-entropies plus penalty / 2 times the squared weights, bias free.

Each rank takes a part of the rows; loss and gradient are summed in float64, so that their number changes the result by
rounding only.

Letters: N pictures, W width of a feature, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError
from slip.data.keyed import Purpose, permutation
from slip.distributed import all_reduce_sum
from slip.evaluate.linear_config import LinearConfig
from slip.world import World

logger = logging.getLogger(__name__)

# Largest part of the mean loss's gradient at which the minimum counts as found, and in the search for the penalty;
# scikit-learn stops at 1e-4.
_FOUND, _NEAR = 1e-7, 1e-5
# Numbers up to which features are kept in float64; beyond, they are made so in parts, each time.
_KEPT = 1 << 27
_ROWS = 8192
_HISTORY = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Features with their classes; the same on all ranks."""

    features_NW: Tensor
    """float32."""
    labels_N: Tensor
    """int64."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def only(self, numbers: npt.NDArray[np.int64]) -> Rows:
        """Some of them."""
        chosen = torch.from_numpy(numbers)
        return Rows(features_NW=self.features_NW[chosen], labels_N=self.labels_N[chosen])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classifier:
    """A linear classifier, float64 on the CPU."""

    weight_CW: Tensor
    bias_C: Tensor

    def logits(self, features_NW: Tensor) -> Tensor:
        """(N, C) float64 on the CPU."""
        if len(features_NW) == 0:
            return torch.zeros(0, len(self.bias_C), dtype=torch.float64)
        return torch.cat([part.double() @ self.weight_CW.T + self.bias_C for part in torch.split(features_NW, _ROWS)])


def _loss_and_gradient(rows: Rows, classifier_CV: Tensor, out_CV: Tensor, device: torch.device) -> Tensor:
    """Sum of the cross-entropies of these rows; its gradient is added to `out_CV`. V = W + 1: the bias is last."""
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for features_nW, labels_n in zip(
        torch.split(rows.features_NW, _ROWS), torch.split(rows.labels_N, _ROWS), strict=True
    ):
        x_nW, y_n1 = features_nW.double(), labels_n[:, None]
        log_p_nC = (x_nW @ classifier_CV[:, :-1].T + classifier_CV[:, -1]).log_softmax(dim=1)
        loss -= log_p_nC.gather(1, y_n1).sum()
        p_nC = log_p_nC.exp_()
        p_nC.scatter_add_(1, y_n1, torch.full_like(y_n1, -1, dtype=torch.float64))
        out_CV[:, :-1] += p_nC.T @ x_nW
        out_CV[:, -1] += p_nC.sum(dim=0)
    return loss


def fit(
    rows: Rows,
    num_classes: int,
    l2: float,
    *,
    world: World,
    max_iterations: int = 1000,
    tolerance: float = _FOUND,
    start: Classifier | None = None,
) -> Classifier:
    """The minimum; every rank must call it with the same rows, and all get the same.

    Args:
        l2: penalty, 1 / C of scikit-learn.
        tolerance: largest part of the mean loss's gradient with which it ends.
        start: where the search begins; the minimum is the same from everywhere.
    """
    width = rows.features_NW.shape[1]
    features_nW, labels_n = (
        part.tensor_split(world.world_size)[world.rank].to(world.device) for part in (rows.features_NW, rows.labels_N)
    )
    own = Rows(features_NW=features_nW.double() if features_nW.numel() <= _KEPT else features_nW, labels_N=labels_n)
    weight_CV = torch.zeros(num_classes, width + 1, dtype=torch.float64, device=world.device)
    if start is not None:
        weight_CV[:, :-1], weight_CV[:, -1] = start.weight_CW, start.bias_C
    weight_CV.grad = torch.zeros_like(weight_CV)
    search = torch.optim.LBFGS(
        [weight_CV],
        max_iter=max_iterations,
        history_size=_HISTORY,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        gradient_CV = torch.zeros_like(weight_CV)
        loss = _loss_and_gradient(own, weight_CV, gradient_CV, world.device)
        total = all_reduce_sum(torch.cat([loss[None], gradient_CV.flatten()]))
        gradient_CV = total[1:].view_as(weight_CV)
        gradient_CV[:, :-1] += l2 * weight_CV[:, :-1]
        weight_CV.grad = gradient_CV / len(rows)
        return (total[0].item() + l2 / 2 * weight_CV[:, :-1].square().sum().item()) / len(rows)

    search.step(closure)  # type: ignore[no-untyped-call]
    return Classifier(weight_CW=weight_CV[:, :-1].cpu(), bias_C=weight_CV[:, -1].cpu())


def held_out_numbers(
    labels_N: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the rows to fit on, and of those held out: of each class the same share, but never all of it."""
    order = permutation(len(labels_N), seed=seed, purpose=Purpose.WINDOW_ORDER, where=(0, 0, 0))
    held: list[npt.NDArray[np.int64]] = []
    for label in np.unique(labels_N):
        of_class = order[labels_N[order] == label]
        held.append(of_class[: min(max(1, round(share * len(of_class))), len(of_class) - 1)])
    out = np.sort(np.concatenate(held)) if held else order
    return np.setdiff1d(np.arange(len(labels_N)), out), out


def best_exponent(worth: Callable[[float], tuple[float, ...]], first: Iterable[float], halvings: int) -> float:
    """The power of ten at which `worth` is largest: the best of `first`, then between its neighbours, step halved.

    Of equally good ones the largest, which is the simplest classifier. `first` is evenly spaced.
    """
    tried = {exponent: worth(exponent) for exponent in first}

    def best() -> float:
        return max(tried, key=lambda exponent: (tried[exponent], exponent))

    low, high = min(tried), max(tried)
    step = (high - low) / (len(tried) - 1) if len(tried) > 1 else 0.0
    for _ in range(halvings if step else 0):
        step /= 2
        middle = best()
        for exponent in (middle - step, middle + step):
            if low <= exponent <= high:
                tried.setdefault(exponent, worth(exponent))
    return best()


def search_l2(
    fitted: Rows,
    validated: Rows,
    num_classes: int,
    config: LinearConfig,
    worth: Callable[[Tensor, Tensor], float],
    *,
    world: World,
) -> tuple[float, Classifier]:
    """The penalty that does best on `validated`, and a classifier near the minimum with it, to begin from.

    Args:
        worth: what logits (N, C) are worth for classes (N,), more is better.
    """
    if len(fitted) == 0 or len(validated) == 0:
        raise InputError(
            f"{len(fitted)} pictures to fit on and {len(validated)} held out to choose the L2 penalty on are too few: "
            "every class needs two pictures in the train split, or the set a validation split"
        )
    found: dict[float, Classifier] = {}

    def try_one(exponent: float) -> tuple[float, float]:
        nearest = min(found, key=lambda other: abs(other - exponent), default=None)
        found[exponent] = fit(
            *(fitted, num_classes, 10.0**exponent),
            world=world,
            max_iterations=config.max_iterations,
            tolerance=_NEAR,
            start=None if nearest is None else found[nearest],
        )
        logits_NC = found[exponent].logits(validated.features_NW)
        value = worth(logits_NC, validated.labels_N)
        logger.info("L2 penalty %.3g: %.2f %% on %d held-out pictures", 10.0**exponent, 100 * value, len(validated))
        # Penalties often do equally well on few pictures; of those the one that is surest of what is right.
        return value, -F.cross_entropy(logits_NC, validated.labels_N).item()

    low, high = config.l2_decades
    # From the strong ones, whose minimum is near, to the weak ones.
    coarse = [float(exponent) for exponent in range(high, low - 1, -2)]
    chosen = best_exponent(try_one, coarse, config.l2_halvings)
    return 10.0**chosen, found[chosen]
