"""Zero-shot classification: which class's prompts does a picture's embedding lie closest to?

In: a network with both towers and a labelled set. Out: one Score from the answers of all ranks. The view is the
published one: shorter side to the network's size, bilinear, then the middle square.

Letters: N pictures, C classes, D width of the shared embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError, InputError
from slip.config import ModelConfig
from slip.data.augment import evaluation_view
from slip.data.tokenizer import Tokenizer, cut_to_longest
from slip.evaluate.answers import Answers, answers, gathered_answers, score_of
from slip.evaluate.encode import View, arithmetic, decode_picture, encode_with
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.metrics import Metric
from slip.evaluate.progress import counted
from slip.evaluate.score import Score
from slip.evaluate.settings import Reading
from slip.evaluate.trained import Trained
from slip.evaluate.training_views import evaluated_on
from slip.models.model import Model
from slip.world import World


def published_view(size: int) -> View:
    """The view for evaluation without training, of pictures decoded or not."""
    return lambda picture: evaluation_view(decode_picture(picture), size)


def check_prompts(labelled: LabelledSet) -> None:
    """InputError where a set cannot be classified without training."""
    if not labelled.templates:
        raise InputError(f"{labelled.url}: no prompts are known for it; add templates to the set or to the catalogue")


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts of one class: ["boat", "ship"], ["a {c}."] -> ["a boat.", "a ship."]."""
    return [template.replace("{c}", name) for template in templates for name in names]


def embed_texts(model: Model, texts: Sequence[str], context_length: int, *, batch: int, device: torch.device) -> Tensor:
    """Unit vectors of texts, (N, D) float32 on the device."""
    tokens = cut_to_longest(Tokenizer(context_length)(texts))
    chunks = []
    with counted("texts", len(tokens)) as advance:
        for first in range(0, len(tokens), batch):
            part = torch.from_numpy(tokens[first : first + batch]).to(device)
            chunks.append(model.encode_text(part).float())
            advance(len(part))
    return F.normalize(torch.cat(chunks), dim=-1)


def class_weights(
    model: Model, labelled: LabelledSet, context_length: int, *, batch: int, device: torch.device
) -> Tensor:
    """One unit vector per class: the mean of the unit vectors of its prompts, to length 1 again; (C, D).

    The prompts of a class are all its names in all templates (several names a class are pooled, as published).
    """
    of_class = [prompts(names, labelled.templates) for names in labelled.classnames]
    texts = [text for found in of_class for text in found]
    embeddings = embed_texts(model, texts, context_length, batch=batch, device=device)
    means = [part.mean(dim=0) for part in torch.split(embeddings, [len(found) for found in of_class])]
    return F.normalize(torch.stack(means), dim=-1)


def _answers(model: Model, labelled: LabelledSet, config: ModelConfig, world: World, reading: Reading) -> Answers:
    """Answers about all pictures of the test split, in the arithmetic that is switched on."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            weights_CD = class_weights(
                model, labelled, config.context_length, batch=reading.batch, device=world.device
            ).cpu()
    finally:
        model.train(was_training)
    found = encode_with(
        model,
        evaluated_on(labelled),
        world=world,
        view=published_view(config.image_size),
        batch=reading.batch,
        workers=reading.threads(),
        what="embedding",
    )
    # Under autocast the product would be rounded to bf16, which makes ties where there are none.
    with torch.autocast("cpu", enabled=False):
        images_ND = F.normalize(found.values_NW, dim=-1)
        return gathered_answers(answers(images_ND @ weights_CD.T, found.labels_N, found.numbers_N))


def evaluate_zeroshot(
    model: Model, labelled: LabelledSet, config: ModelConfig, *, world: World, reading: Reading, metric: Metric | None
) -> Score:
    """Classify every picture of the test split; all ranks must call it and all get the same Score.

    Args:
        model: any model with a text tower, not wrapped in DDP; it is left in the mode it came in. Call inside
            `torch.autocast` to evaluate in lower precision.
        metric: None is the one that the paper gives for the set.
    """
    check_prompts(labelled)
    found = _answers(model, labelled, config, world, reading)
    detail = {"prompts": len(labelled.templates) * sum(map(len, labelled.classnames))}
    return score_of(found, labelled, protocol="zeroshot", metric=metric, detail=detail)


def run(trained: Trained, labelled: LabelledSet, settings: Reading, *, world: World) -> list[Score]:
    """The protocol for `slip evaluate`."""
    if not trained.model.has_text:
        raise ConfigError(
            f"zero-shot needs a text tower, which objective {trained.objective.name} has not; give a checkpoint of "
            "clip, siglip or slip"
        )
    with arithmetic(trained.precision, world):
        return [evaluate_zeroshot(trained.model, labelled, trained.config, world=world, reading=settings, metric=None)]
