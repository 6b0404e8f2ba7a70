"""What a tower makes of labelled pictures, computed by all ranks: the first half of every protocol that trains nothing.

In: a trained network and the pictures of a split. Out: a vector per picture, of this rank's share or of all. Pictures
are read and decoded in threads while the network computes. What one rank cannot read, all ranks refuse with the same
InputError; none is left waiting.

Letters: N pictures, B pictures of a batch, W width of a feature or of the shared space, S side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from pipeline.errors import InputError, ShardError, YfccError
from slip.data.augment import normalise
from slip.data.decode import Pixels, decode_rgb
from slip.distributed import sum_over_ranks
from slip.evaluate.labelled import LabelledPicture, Pictures
from slip.evaluate.progress import counted
from slip.evaluate.together import gather_uneven, of_all, together
from slip.evaluate.trained import Trained
from slip.models.model import Model
from slip.world import World

What = Literal["feature", "embedding"]
View = Callable[[LabelledPicture], Pixels]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """Vectors of some pictures, on the CPU."""

    values_NW: Tensor
    """float32."""
    labels_N: Tensor
    """int64, their classes."""
    numbers_N: Tensor
    """int64, their numbers in the split."""

    def __len__(self) -> int:
        return len(self.numbers_N)

    def only(self, numbers: Tensor) -> Encoded:
        """Those that have one of these numbers."""
        kept_N = torch.isin(self.numbers_N, numbers)
        return Encoded(
            values_NW=self.values_NW[kept_N], labels_N=self.labels_N[kept_N], numbers_N=self.numbers_N[kept_N]
        )


def decode_picture(picture: LabelledPicture) -> Image.Image:
    """The picture in RGB; InputError naming it when it is damaged."""
    if isinstance(picture.image, bytes):
        try:
            return decode_rgb(picture.image)
        except ShardError as error:
            raise InputError(f"{picture.name}: {error}; replace the picture or take it out of the data set") from error
    if picture.image.ndim != 3 or picture.image.shape[2] != 3 or 0 in picture.image.shape:
        raise InputError(f"{picture.name}: pixels of shape {picture.image.shape}, expected (height, width, 3)")
    return Image.fromarray(picture.image)


def in_bf16(precision: str, world: World) -> bool:
    """Whether towers compute in bf16, as they did in training ("auto" does on GPUs)."""
    return precision == "bf16" or (precision == "auto" and world.device.type == "cuda")


def arithmetic(precision: str, world: World) -> torch.autocast:
    """The arithmetic of towers, to be switched on around them: bf16, or float32."""
    return torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=in_bf16(precision, world))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """Decoded pictures."""

    views_B3SS: Tensor
    """uint8."""
    labels: list[int]
    numbers: list[int]


def _batches(
    pictures: Iterator[tuple[int, LabelledPicture]], view: View, *, batch: int, workers: int
) -> Iterator[_Batch]:
    """Decoded batches, the next one in the making while the caller works on one."""

    def read() -> _Batch | None:
        chunk = list(islice(pictures, batch))
        if not chunk:
            return None
        views = list(decoders.map(lambda one: torch.from_numpy(view(one[1]).copy()), chunk))
        return _Batch(
            views_B3SS=torch.stack(views).permute(0, 3, 1, 2),
            labels=[picture.label for _, picture in chunk],
            numbers=[number for number, _ in chunk],
        )

    with ThreadPoolExecutor(workers) as decoders, ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read)
        while (ready := coming.result()) is not None:
            coming = reader.submit(read)
            yield ready


def _in_step(batches: Iterator[_Batch]) -> Iterator[_Batch | None]:
    """The batches, and None as long as another rank has some: the ranks of a network in shards compute together.

    Where one of them cannot read, all stop; its error is raised on that rank.
    """
    error: YfccError | None = None
    while True:
        ready = None
        try:
            ready = next(batches, None)
        except YfccError as raised:
            error = raised
        busy, failed = sum_over_ranks([int(ready is not None), int(error is not None)])
        if error is not None:
            raise error
        if not busy or failed:
            return
        yield ready


def encode_with(
    model: Model, pictures: Pictures, *, world: World, view: View, batch: int, workers: int, what: What
) -> Encoded:
    """`encode` with a network by itself, in whatever arithmetic is switched on."""
    forward = model.image_features if what == "feature" else model.encode_image
    sharded = world.world_size > 1 and any(isinstance(module, FSDPModule) for module in model.modules())

    def work() -> Encoded:
        values: list[Tensor] = []
        labels: list[int] = []
        numbers: list[int] = []
        share = pictures.share(world.rank, world.world_size)
        batches = _batches(share, view, batch=batch, workers=workers)
        blank: Tensor | None = None
        with counted("pictures", len(pictures), ranks=world.world_size) as advance:
            for ready in _in_step(batches) if sharded else batches:
                if ready is not None:
                    values.append(forward(normalise(ready.views_B3SS.to(world.device))).float().cpu())
                    labels += ready.labels
                    numbers += ready.numbers
                    advance(len(ready.labels))
                else:
                    if blank is None:
                        side = model.grid * model.patch
                        blank = torch.zeros(1, 3, side, side, device=world.device)
                    forward(blank)
        return Encoded(
            values_NW=torch.cat(values) if values else torch.zeros(0, 0),
            labels_N=torch.tensor(labels, dtype=torch.int64),
            numbers_N=torch.tensor(numbers, dtype=torch.int64),
        )

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = together(work)
    finally:
        model.train(was_training)
    # A rank without pictures learns from the others how wide vectors are.
    width = max(of_all(found.values_NW.shape[1]))
    return found if len(found) else replace(found, values_NW=torch.zeros(0, width))


def encode(
    trained: Trained, pictures: Pictures, *, world: World, view: View, batch: int, workers: int, what: What
) -> Encoded:
    """Vectors of this rank's share of the pictures, in the order of their numbers; every rank must call it.

    Args:
        view: a picture's pixels as the network shall see them, (S, S, 3); called in threads.
        batch: pictures per forward pass.
        workers: threads that decode.
        what: "feature" is what the image tower says (linear probes see it), "embedding" is in the space shared with
            captions.
    """
    with arithmetic(trained.precision, world):
        return encode_with(trained.model, pictures, world=world, view=view, batch=batch, workers=workers, what=what)


def gathered_numbers(encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Numbers of the pictures of all ranks, each once, in rank order, and the order that sorts them."""
    numbers = gather_uneven(encoded.numbers_N)
    once = len(set(numbers.tolist()))
    if once < len(numbers):
        raise ValueError(f"{len(numbers)} vectors of {once} pictures: two ranks had the same one")
    return numbers, numbers.argsort()


def gathered(encoded: Encoded) -> Encoded:
    """The vectors of all ranks in the order of the pictures' numbers, each once, the same on every rank."""
    numbers, order = gathered_numbers(encoded)
    return Encoded(
        values_NW=gather_uneven(encoded.values_NW)[order],
        labels_N=gather_uneven(encoded.labels_N)[order],
        numbers_N=numbers[order],
    )
