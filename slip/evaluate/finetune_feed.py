"""Batches for fine-tuning: read in threads, decoded and augmented in processes of their own, as timm does it.

In: pictures and the places of a step's batch that are this rank's. Out: normalised views and labels. timm's transforms
draw from Python's, numpy's and torch's global random states, which threads would share; a process has its own. Each
picture is drawn by seed, epoch and number, so views depend neither on processes nor on ranks.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD
from slip.evaluate.encode import decode_picture
from slip.evaluate.finetune_config import FinetuneConfig
from slip.evaluate.labelled import LabelledPicture, Pictures
from slip.evaluate.mixing import seed_of
from slip.evaluate.training_views import epoch_order, read_picture
from slip.torchvision_compat import import_torchvision

import_torchvision()
from timm.data.auto_augment import RandAugment  # noqa: E402
from timm.data.transforms_factory import create_transform  # noqa: E402

_Prepared = tuple[npt.NDArray[np.float32], list[int]]
_AHEAD = 2
_CHUNK = 8
# What a seed is for: groups of mixing are numbered from 0, drop path has 1 << 32.
_VIEW = 1 << 33


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to a picture."""

    size: int
    auto_augment: str
    colour_jitter: float
    random_erasing: float


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """timm's, for a Pillow that refuses to keep 0 bits (13 does), as the strongest draws want: a black picture."""
    if bits_to_keep == 0:
        return Image.new("RGB", image.size)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


@cache
def _transform(augmentation: Augmentation) -> Any:
    found = create_transform(
        input_size=augmentation.size,
        is_training=True,
        color_jitter=augmentation.colour_jitter,
        auto_augment=augmentation.auto_augment or None,
        interpolation="bicubic",
        re_prob=augmentation.random_erasing,
        re_mode="pixel",
        re_count=1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    for part in found.transforms:
        for operation in part.ops if isinstance(part, RandAugment) else ():
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return found


@contextmanager
def _drawn_by(seed: int) -> Iterator[None]:
    """Inside, global random states are those of a seed; outside they are as if nothing had been."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    # The CPU's generator alone: torch.manual_seed would seed every GPU's as well.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def augmented(
    pictures: Sequence[LabelledPicture], seeds: Sequence[int], augmentation: Augmentation
) -> npt.NDArray[np.float32]:
    """Normalised views (n, 3, S, S); InputError naming a damaged picture."""
    views = []
    for picture, seed in zip(pictures, seeds, strict=True):
        with _drawn_by(seed):
            views.append(_transform(augmentation)(decode_picture(picture)).numpy())
    return np.stack(views)


def _begin_process() -> None:
    """One thread for torch, and an end when the process that wants the views ends, killed or not."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """This rank's part of a step's batch."""

    views_B3SS: Tensor
    """float32, normalised, not mixed."""
    labels_B: Tensor


class Feed:
    """Prepares this rank's parts of batches, some steps ahead; a context.

    Args:
        places: of the pictures in a batch that are this rank's, in the order in which it wants them.
        workers: processes; with 0 a part is prepared when it is asked for.
    """

    def __init__(
        self,
        pictures: Pictures,
        num_classes: int,
        config: FinetuneConfig,
        *,
        size: int,
        places: Sequence[int],
        workers: int,
    ) -> None:
        self._pictures, self._num_classes, self._config, self._places = pictures, num_classes, config, list(places)
        self._augmentation = Augmentation(
            size=size,
            auto_augment=config.auto_augment,
            colour_jitter=config.colour_jitter,
            random_erasing=config.random_erasing,
        )
        self._readers: ThreadPoolExecutor | None = None
        self._workers: ProcessPoolExecutor | None = None
        if workers:
            # Not forked from this process, which has threads and a GPU, but from one that only has imported this.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self._workers = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_process)
            # Each reads what one process then works on; half of them are reading.
            self._readers = ThreadPoolExecutor(2 * workers)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (self._readers, self._workers):
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _prepared(self, numbers: Sequence[int], epoch: int) -> _Prepared:
        pictures = [read_picture(self._pictures, number, self._num_classes) for number in numbers]
        seeds = [seed_of(self._config.seed, epoch, number, _VIEW) for number in numbers]
        if self._workers is None:
            views = augmented(pictures, seeds, self._augmentation)
        else:
            views = self._workers.submit(augmented, pictures, seeds, self._augmentation).result()
        return views, [picture.label for picture in pictures]

    def _ahead(self, steps: Iterator[list[int]], epoch: int) -> Iterator[list[_Prepared]]:
        """The same for the numbers of each step, in chunks; later steps are in the making meanwhile."""
        if self._readers is None:
            for numbers in steps:
                yield [self._prepared(numbers, epoch)]
            return
        coming: deque[list[Future[_Prepared]]] = deque()
        try:
            for numbers in steps:
                chunks = [numbers[first : first + _CHUNK] for first in range(0, len(numbers), _CHUNK)]
                coming.append([self._readers.submit(self._prepared, chunk, epoch) for chunk in chunks])
                if len(coming) > _AHEAD:
                    yield [chunk.result() for chunk in coming.popleft()]
            while coming:
                yield [chunk.result() for chunk in coming.popleft()]
        finally:
            for left in coming:
                for chunk in left:
                    chunk.cancel()

    def parts(self, epoch: int) -> Iterator[Part]:
        """This rank's part of each whole batch of an epoch."""
        order = epoch_order(len(self._pictures), seed=self._config.seed, epoch=epoch)
        firsts = range(0, len(order) - self._config.batch + 1, self._config.batch)
        steps = (order[first : first + self._config.batch][self._places].tolist() for first in firsts)
        for prepared in self._ahead(steps, epoch):
            views = np.concatenate([views for views, _ in prepared])
            labels = [label for _, some in prepared for label in some]
            yield Part(views_B3SS=torch.from_numpy(views), labels_B=torch.tensor(labels))
