"""Zero-shot classification: which class's prompts does a picture's embedding lie closest to?

In: a model with both towers and a labelled set. Out: exact counts of right answers over all ranks.

Letters: B pictures of a batch, C classes, D width of the shared embedding, S side of a picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError, ShardError
from slip.config import ModelConfig
from slip.data.augment import evaluation_view, normalise
from slip.data.decode import decode_rgb
from slip.data.tokenizer import Tokenizer, cut_to_longest
from slip.distributed import all_reduce_sum
from slip.evaluate.datasets import LabelledPicture, LabelledSet, read_pictures
from slip.models.model import Model
from slip.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroshotResult:
    """Counts over the whole data set."""

    url: str
    num_classes: int
    num_pictures: int
    num_top1: int
    """Pictures whose class came first."""
    num_top5: int
    """Pictures whose class was among the first five (all classes when there are fewer)."""

    @property
    def top1(self) -> float:
        """Share of pictures whose class came first."""
        return self.num_top1 / self.num_pictures

    @property
    def top5(self) -> float:
        """Share of pictures whose class was among the first five."""
        return self.num_top5 / self.num_pictures

    @property
    def chance(self) -> float:
        """`top1` of guessing."""
        return 1 / self.num_classes


def class_weights(
    model: Model, labelled: LabelledSet, tokenizer: Tokenizer, *, batch: int, device: torch.device
) -> Tensor:
    """One unit vector per class: the mean of its normalised prompt embeddings, normalised again; (C, D)."""
    prompts = [prompt for classname in labelled.classnames for prompt in labelled.prompts(classname)]
    tokens = cut_to_longest(tokenizer(prompts))
    chunks = [
        model.encode_text(torch.from_numpy(tokens[first : first + batch]).to(device)).float()
        for first in range(0, len(tokens), batch)
    ]
    embeddings = F.normalize(torch.cat(chunks), dim=-1)
    per_class = embeddings.view(len(labelled.classnames), len(labelled.templates), -1)
    return F.normalize(per_class.mean(dim=1), dim=-1)


def count_right(image_BD: Tensor, weights_CD: Tensor, labels_B: Tensor) -> Tensor:
    """How many pictures have their class first, and among the first five: (2,) float64 (sums stay exact)."""
    # Under autocast the product would be rounded to bf16, which makes ties where there are none.
    with torch.autocast(image_BD.device.type, enabled=False):
        logits_BC = F.normalize(image_BD.float(), dim=-1) @ weights_CD.T
    first = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices
    hits = first == labels_B[:, None]
    return torch.stack([hits[:, 0].sum(), hits.any(dim=1).sum()]).double()


def _decoded(pictures: Sequence[LabelledPicture], size: int, pool: ThreadPoolExecutor) -> Tensor:
    """The evaluation views of some pictures, (B, 3, S, S) uint8."""

    def view(picture: LabelledPicture) -> Tensor:
        try:
            return torch.from_numpy(evaluation_view(decode_rgb(picture.image), size).copy())
        except ShardError as error:
            raise InputError(f"{picture.name}: {error}; replace the picture or take it out of the data set") from error

    return torch.stack(list(pool.map(view, pictures))).permute(0, 3, 1, 2)


def _batches(pictures: Iterator[LabelledPicture], batch: int) -> Iterator[list[LabelledPicture]]:
    while chunk := list(islice(pictures, batch)):
        yield chunk


def evaluate_zeroshot(
    model: Model, labelled: LabelledSet, config: ModelConfig, *, world: World, batch: int, workers: int
) -> ZeroshotResult:
    """Classify every picture of a labelled set; all ranks must call it and all get the same result.

    Args:
        model: any model with a text tower, not wrapped in DDP; it is left in the mode it came in. Call inside
            `torch.autocast` to evaluate in lower precision.
        batch: pictures (and prompts) per forward pass.
        workers: threads that decode.
    """
    was_training = model.training
    model.eval()
    counts = torch.zeros(3, dtype=torch.float64, device=world.device)
    try:
        with torch.inference_mode(), ThreadPoolExecutor(workers) as pool:
            tokenizer = Tokenizer(config.context_length)
            weights_CD = class_weights(model, labelled, tokenizer, batch=batch, device=world.device)
            pictures = read_pictures(labelled, rank=world.rank, world_size=world.world_size)
            for chunk in _batches(pictures, batch):
                views = normalise(_decoded(chunk, config.image_size, pool).to(world.device))
                labels_B = torch.tensor([picture.label for picture in chunk], device=world.device)
                counts[1:] += count_right(model.encode_image(views), weights_CD, labels_B)
                counts[0] += len(chunk)
            num_pictures, num_top1, num_top5 = (int(count) for count in all_reduce_sum(counts).tolist())
    finally:
        model.train(was_training)
    if num_pictures == 0:
        raise InputError(f"{labelled.url}: no pictures in its {labelled.num_shards} shards under test/")
    result = ZeroshotResult(
        url=labelled.url,
        num_classes=len(labelled.classnames),
        num_pictures=num_pictures,
        num_top1=num_top1,
        num_top5=num_top5,
    )
    logger.info(
        "zero-shot on %s: top-1 %.1f %% (%d of %d pictures), top-5 %.1f %%; guessing among %d classes gives %.1f %%",
        *(result.url, 100 * result.top1, num_top1, num_pictures),
        *(100 * result.top5, result.num_classes, 100 * result.chance),
    )
    return result
