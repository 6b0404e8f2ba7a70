"""Which pictures a step of training on labels takes, and how a linear probe sees them.

Pure functions of seed, epoch and picture, so that neither the number of ranks nor a restart changes what is trained on.
The splits that protocols train and are evaluated on are found here as well.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InputError
from slip.data.augment import apply
from slip.data.decode import Pixels
from slip.data.keyed import Purpose, permutation, uniforms
from slip.data.view_params import NUM_UNIFORMS, draw_params
from slip.evaluate.encode import decode_picture
from slip.evaluate.labelled import LabelledPicture, LabelledSet, Pictures

logger = logging.getLogger(__name__)

VALIDATION = ("validation", "val", "valid")
"""What a split on which settings are chosen is called."""


def trained_on(labelled: LabelledSet) -> Pictures:
    """What may be trained on; InputError when the set has none."""
    pictures = labelled.splits.get("train")
    if pictures is None or len(pictures) == 0:
        raise InputError(
            f"{labelled.url}: {labelled.name} has no train split, only {', '.join(sorted(labelled.splits)) or 'none'}: "
            "linear probes and fine-tuning need one; add it, or leave this set to zeroshot"
        )
    return pictures


def evaluated_on(labelled: LabelledSet) -> Pictures:
    """What is evaluated on; InputError when the set has none."""
    pictures = labelled.splits.get("test")
    if pictures is None or len(pictures) == 0:
        raise InputError(f"{labelled.url}: {labelled.name} has no test split to evaluate on; add it")
    return pictures


def read_picture(pictures: Pictures, number: int, num_classes: int) -> LabelledPicture:
    """One picture; InputError when its label is none of the classes."""
    picture = pictures[number]
    if not 0 <= picture.label < num_classes:
        raise InputError(
            f"{picture.name}: its label is {picture.label}, but there are {num_classes} classes, counted from 0; "
            "correct the label, or the list of classes"
        )
    return picture


def epoch_order(count: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Numbers of `count` pictures in the order in which an epoch takes them."""
    return permutation(count, seed=seed, purpose=Purpose.SHARD_ORDER, where=(epoch, 0, 0))


def linear_train_view(picture: LabelledPicture, size: int, *, seed: int, epoch: int, number: int) -> Pixels:
    """The published view for training a linear classifier, (S, S, 3): RandomResizedCrop(scale .08-1) and a flip."""
    image = decode_picture(picture)
    numbers = uniforms(NUM_UNIFORMS, seed=seed, purpose=Purpose.SAMPLE, where=(epoch, number, 0)).tolist()
    # The view for self-supervision has the same crop and flip, and colours besides.
    drawn = draw_params("ssl", image.width, image.height, numbers)
    return apply(image, dataclasses.replace(drawn, jitter=None, grey=False, blur_radius=None), size)


def middle_view(picture: LabelledPicture, size: int, *, shorter: int, resampling: Image.Resampling) -> Pixels:
    """The shorter side to so many pixels, then the middle square of `size`, as torchvision does it: (S, S, 3)."""
    image = decode_picture(picture)
    short, long = sorted(image.size)
    longer = int(shorter * long / short)
    width, height = (shorter, longer) if image.width <= image.height else (longer, shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.resize((width, height), resampling).crop((left, top, left + size, top + size)))


def linear_test_view(picture: LabelledPicture, size: int) -> Pixels:
    """The published view for testing a linear classifier: 256 pixels to 224 (main_linear.py), other sizes likewise."""
    return middle_view(picture, size, shorter=round(size * 256 / 224), resampling=Image.Resampling.BILINEAR)


def finetuned_view(picture: LabelledPicture, size: int) -> Pixels:
    """The published view for testing a fine-tuned network: the same but bicubic; from 384 pixels on without a margin
    (BEiT's datasets.py)."""
    shorter = round(size * 256 / 224) if size < 384 else size
    return middle_view(picture, size, shorter=shorter, resampling=Image.Resampling.BICUBIC)


def warn_of_empty_classes(labelled: LabelledSet, labels_N: npt.NDArray[np.int64]) -> None:
    """Say which classes have no picture to train on: no classifier will ever name them."""
    counts = np.bincount(labels_N, minlength=len(labelled.classnames))
    empty = [labelled.classnames[label][0] for label in np.flatnonzero(counts == 0)]
    if empty:
        listed = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        logger.warning("%s: no picture to train on of class %s", labelled.url, listed)
