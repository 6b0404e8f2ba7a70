"""SLIP's published input pipeline (github.com/facebookresearch/SLIP), in our words, to measure ours against.

torchvision's transforms with Pillow, view by view; shards through the webdataset library and torch's DataLoader with
worker processes, float32 views, as the published code does with its own files. Captions are tokenized by open_clip,
which takes a third of the time of the published tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image, ImageFilter

from slip.torchvision_compat import import_torchvision

import_torchvision()
from torchvision import transforms  # noqa: E402

_NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class PillowBlur:
    """Gaussian blur by Pillow with a radius drawn from .1 to 2."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def make_transforms(size: int) -> tuple[Any, Any]:
    """The transforms of the CLIP view and of the two SSL views."""
    finish = [transforms.ToTensor(), transforms.Normalize(*_NORMALIZE)]
    clip = transforms.Compose([transforms.RandomResizedCrop(size, scale=(0.5, 1.0)), *finish])
    ssl = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.08, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PillowBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            *finish,
        ]
    )
    return clip, ssl


class MakeViews:
    """A decoded sample to (three views, tokens); can be sent to worker processes."""

    def __init__(self, size: int) -> None:
        self._clip, self._ssl = make_transforms(size)
        self._tokenizer: Any = None

    def __call__(self, sample: tuple[Image.Image, str]) -> tuple[torch.Tensor, ...]:
        if self._tokenizer is None:
            from open_clip.tokenizer import SimpleTokenizer

            self._tokenizer = SimpleTokenizer(clean="lower")
        image, caption = sample
        views = (self._clip(image), self._ssl(image), self._ssl(image))
        return (*views, self._tokenizer([caption], context_length=77)[0])


def batches(pattern: str, *, size: int, batch: int, workers: int) -> Iterator[Any]:
    """Batches without end from tars, by `workers` processes."""
    import webdataset as wds

    dataset = wds.WebDataset(pattern, resampled=True, shardshuffle=False, nodesplitter=wds.split_by_node)
    # "pilrgb" decodes as `Image.open(...).convert("RGB")` does.
    dataset = dataset.shuffle(1000, initial=100).decode("pilrgb").to_tuple("jpg", "txt").map(MakeViews(size))
    return iter(torch.utils.data.DataLoader(dataset, batch_size=batch, num_workers=workers))
