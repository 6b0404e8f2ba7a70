"""The protocol "linear": what the frozen image tower's features are worth to a linear classifier.

In: a trained network and a labelled set with a train split. Out: two scores, of the published protocol
(`slip.evaluate.linear_sgd`) and of the fast one (`slip.evaluate.linear_fast`), on the same features of the test split.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from slip.data.worker_count import cores_of_this_rank
from slip.distributed import sum_over_ranks
from slip.evaluate.answers import answers, gathered_answers, score_of
from slip.evaluate.encode import Encoded, encode, gathered_numbers
from slip.evaluate.labelled import LabelledSet, Pictures
from slip.evaluate.linear_config import LinearConfig
from slip.evaluate.linear_fast import fit, held_out_numbers, search_l2
from slip.evaluate.linear_sgd import train_head
from slip.evaluate.score import Score
from slip.evaluate.together import gather_uneven
from slip.evaluate.trained import Trained
from slip.evaluate.training_views import (
    VALIDATION,
    evaluated_on,
    linear_test_view,
    trained_on,
    warn_of_empty_classes,
)
from slip.world import World


def _encoded(trained: Trained, pictures: Pictures, config: LinearConfig, *, world: World) -> Encoded:
    """Features of this rank's share."""
    return encode(
        *(trained, pictures),
        world=world,
        view=partial(linear_test_view, size=trained.config.image_size),
        batch=config.forward_batch,
        workers=config.workers or cores_of_this_rank(),
        what="feature",
    )


def _fast(trained: Trained, labelled: LabelledSet, test: Encoded, config: LinearConfig, *, world: World) -> Score:
    whole = _encoded(trained, trained_on(labelled), config, world=world)
    numbers_N, order = gathered_numbers(whole)
    labels_N = gather_uneven(whole.labels_N)[order].numpy()
    warn_of_empty_classes(labelled, labels_N)
    num_classes = len(labelled.classnames)
    split = next((name for name in VALIDATION if name in labelled.splits), None)
    if split is not None:
        fitted, validated = whole, _encoded(trained, labelled.splits[split], config, world=world)
    else:
        numbers_N = numbers_N[order]
        fitted, validated = (
            whole.only(numbers_N[torch.from_numpy(chosen)])
            for chosen in held_out_numbers(labels_N, config.held_out, config.seed)
        )
    (num_validated,) = sum_over_ranks([len(validated)])

    def worth(logits_NC: Tensor, share: Encoded) -> float:
        found = gathered_answers(answers(logits_NC, share.labels_N, share.numbers_N))
        return score_of(found, labelled, protocol="linear-fast").value

    l2, chosen = search_l2(fitted, validated, num_classes, config, worth, world=world)
    chosen = fit(whole, num_classes, l2, world=world, max_iterations=config.max_iterations, start=chosen)
    found = gathered_answers(answers(chosen.logits(test.values_NW), test.labels_N, test.numbers_N))
    detail: dict[str, float | int | str] = {
        "l2": l2,
        "C": 1 / l2,
        "trained on": len(labels_N),
        "chosen on": f"{num_validated} pictures of {split or 'train'}",
    }
    return score_of(found, labelled, protocol="linear-fast", detail=detail)


def _published(trained: Trained, labelled: LabelledSet, test: Encoded, config: LinearConfig, *, world: World) -> Score:
    head = train_head(trained, labelled, config, world=world, workers=config.workers or cores_of_this_rank())
    with torch.no_grad():
        logits_NC = head.cpu()(test.values_NW)
    found = gathered_answers(answers(logits_NC, test.labels_N, test.numbers_N))
    detail: dict[str, float | int | str] = {
        "epochs": config.epochs,
        "batch": config.batch,
        "learning rate": config.lr * config.batch / 256,
        "trained on": len(trained_on(labelled)),
    }
    return score_of(found, labelled, protocol="linear-sgd", detail=detail)


def run(trained: Trained, labelled: LabelledSet, config: LinearConfig, *, world: World) -> list[Score]:
    """Train both classifiers (or the one asked for) and evaluate them; every rank must call it, and all get the same.

    A set without a train or test split is an InputError.
    """
    trained_on(labelled)
    test = _encoded(trained, evaluated_on(labelled), config, world=world)
    scores = []
    if config.published:
        scores.append(_published(trained, labelled, test, config, world=world))
    if config.fast:
        scores.append(_fast(trained, labelled, test, config, world=world))
    return scores
