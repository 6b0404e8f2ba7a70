"""The fast linear probe: multinomial logistic regression by L-BFGS on features computed once.

In: features and labels of the train split, a share on each rank. Out: the classifier, with the L2 penalty that did
best on pictures held out of it. The protocol is CLIP's (2103.00020, A.3): penalties over twelve decades, searched
coarse to fine; after that a last fit on everything. What is minimised is scikit-learn's objective (LogisticRegression
with C = 1 / penalty): the sum of cross-entropies plus penalty / 2 times the squared weights, bias free.

A tower's features are worth very different amounts of loss, and L-BFGS alone often does not come to the minimum in a
thousand steps. It searches in coordinates in which the loss curves about equally in all directions: that changes the
way and not the minimum, and it is there in 40 to 250 (tests/bench/RESULTS.md).

Features never leave the rank that computed them; loss and gradient are summed over the ranks in float64, so that their
number changes the result by rounding only.

Letters: N pictures, W width of a feature, V = W + 1 with the bias last, C classes.
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
from slip.distributed import all_reduce_sum, rank, sum_over_ranks
from slip.evaluate.encode import Encoded
from slip.evaluate.linear_config import LinearConfig
from slip.world import World

logger = logging.getLogger(__name__)

# Largest part of the mean loss's gradient, in the coordinates of `_coordinates`, at which the minimum counts as found,
# and in the search for the penalty. The loss is then about half its square above the least.
_FOUND, _NEAR = 1e-7, 1e-5
# Directions along which the loss curves less than so much of the most are taken for as curved as that.
_FLAT = 1e-12
# Numbers up to which features are kept in float64; beyond, they are made so in parts, each time.
_KEPT = 1 << 27
_ROWS = 8192
_HISTORY = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classifier:
    """A linear classifier, float64 on the CPU."""

    weight_CW: Tensor
    bias_C: Tensor

    def logits(self, features_NW: Tensor) -> Tensor:
        """(N, C) float64 on the CPU."""
        return torch.cat([part.double() @ self.weight_CW.T + self.bias_C for part in torch.split(features_NW, _ROWS)])


def _coordinates(features_NW: Tensor, num_classes: int, l2: float, count: int) -> Tensor:
    """(V, V): weights are these coordinates times its transpose; the same on all ranks.

    In them the mean loss's second derivative at weights of zero, of the cross-entropies and the penalty, is the
    identity, but for what classes have to do with each other. Elsewhere the cross-entropies' is at most C / 2 times
    what it is there (Böhning, Multinomial logistic regression algorithm, 1992).

    Args:
        count: pictures of all ranks.
    """
    W = features_NW.shape[1]
    curvature_VV = torch.zeros(W + 1, W + 1, dtype=torch.float64, device=features_NW.device)
    for features_nW in torch.split(features_NW, _ROWS):
        x_nV = F.pad(features_nW.double(), (0, 1), value=1.0)
        curvature_VV += x_nV.T @ x_nV
    curvature_VV = all_reduce_sum(curvature_VV) / num_classes
    curvature_VV.diagonal()[:-1].add_(l2)
    # Rank 0's for all: eigenvectors may differ in sign from one kind of processor to another.
    curved_V, directions_VV = torch.linalg.eigh(curvature_VV / count)
    found_VV = directions_VV * curved_V.clamp(min=_FLAT * curved_V.max().item()).rsqrt()
    return all_reduce_sum(found_VV if rank() == 0 else torch.zeros_like(found_VV))


def _loss_and_gradient(features_NW: Tensor, labels_N: Tensor, classifier_CV: Tensor, out_CV: Tensor) -> Tensor:
    """Sum of the cross-entropies of these rows; its gradient is added to `out_CV`."""
    loss = torch.zeros((), dtype=torch.float64, device=features_NW.device)
    for features_nW, labels_n in zip(torch.split(features_NW, _ROWS), torch.split(labels_N, _ROWS), strict=True):
        x_nW, y_n1 = features_nW.double(), labels_n[:, None]
        log_p_nC = (x_nW @ classifier_CV[:, :-1].T + classifier_CV[:, -1]).log_softmax(dim=1)
        loss -= log_p_nC.gather(1, y_n1).sum()
        p_nC = log_p_nC.exp_()
        p_nC.scatter_add_(1, y_n1, torch.full_like(y_n1, -1, dtype=torch.float64))
        out_CV[:, :-1] += p_nC.T @ x_nW
        out_CV[:, -1] += p_nC.sum(dim=0)
    return loss


def fit(
    share: Encoded,
    num_classes: int,
    l2: float,
    *,
    world: World,
    max_iterations: int = 1000,
    tolerance: float = _FOUND,
    start: Classifier | None = None,
) -> Classifier:
    """The minimum over the shares of all ranks; every rank must call it, and all get the same.

    Args:
        share: this rank's features.
        l2: penalty, 1 / C of scikit-learn.
        tolerance: largest part of the mean loss's gradient, by `_coordinates`, with which it ends.
        start: where the search begins; the minimum is the same from everywhere.
    """
    features_NW, labels_N = share.values_NW.to(world.device), share.labels_N.to(world.device)
    if features_NW.numel() <= _KEPT:
        features_NW = features_NW.double()
    (of_all_ranks,) = sum_over_ranks([len(share)])
    to_weight_VV = _coordinates(features_NW, num_classes, l2, of_all_ranks)
    place_CV = torch.zeros(num_classes, len(to_weight_VV), dtype=torch.float64, device=world.device)
    if start is not None:
        begin_CV = torch.cat([start.weight_CW, start.bias_C[:, None]], dim=1).to(world.device)
        place_CV = torch.linalg.solve(to_weight_VV, begin_CV.T).T.contiguous()
    search = torch.optim.LBFGS(
        [place_CV],
        max_iter=max_iterations,
        history_size=_HISTORY,
        tolerance_grad=tolerance,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        weight_CV = place_CV @ to_weight_VV.T
        gradient_CV = torch.zeros_like(weight_CV)
        loss = _loss_and_gradient(features_NW, labels_N, weight_CV, gradient_CV)
        total = all_reduce_sum(torch.cat([loss[None], gradient_CV.flatten()]))
        gradient_CV = total[1:].view_as(weight_CV)
        gradient_CV[:, :-1] += l2 * weight_CV[:, :-1]
        place_CV.grad = gradient_CV @ to_weight_VV / of_all_ranks
        return (total[0].item() + l2 / 2 * weight_CV[:, :-1].square().sum().item()) / of_all_ranks

    search.step(closure)  # type: ignore[no-untyped-call]
    weight_CV = (place_CV @ to_weight_VV.T).cpu()
    return Classifier(weight_CW=weight_CV[:, :-1], bias_C=weight_CV[:, -1])


def held_out_numbers(
    labels_N: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the pictures to fit on, and of those held out: of each class the same share, but never all of it."""
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
    fitted: Encoded,
    validated: Encoded,
    num_classes: int,
    config: LinearConfig,
    worth: Callable[[Tensor, Encoded], float],
    *,
    world: World,
) -> tuple[float, Classifier]:
    """The penalty that does best on `validated`, and a classifier near the minimum with it, to begin from.

    Args:
        fitted: this rank's share of the features to fit on.
        validated: this rank's share of the others.
        worth: what logits (N, C) of all ranks are worth, given this rank's and its share; more is better.
    """
    num_fitted, num_validated = sum_over_ranks([len(fitted), len(validated)])
    if num_fitted == 0 or num_validated == 0:
        raise InputError(
            f"{num_fitted} pictures to fit on and {num_validated} held out to choose the L2 penalty on are too few: "
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
        logits_NC = found[exponent].logits(validated.values_NW)
        value = worth(logits_NC, validated)
        logger.info("L2 penalty %.3g: %.2f %% on %d held-out pictures", 10.0**exponent, 100 * value, num_validated)
        # Penalties often do equally well on few pictures; of those the one that is surest of what is right.
        surprise = F.cross_entropy(logits_NC, validated.labels_N, reduction="sum").to(world.device)
        return value, -all_reduce_sum(surprise).item()

    low, high = config.l2_decades
    # From the strong ones, whose minimum is near, to the weak ones.
    coarse = [float(exponent) for exponent in range(high, low - 1, -2)]
    chosen = best_exponent(try_one, coarse, config.l2_halvings)
    return 10.0**chosen, found[chosen]
