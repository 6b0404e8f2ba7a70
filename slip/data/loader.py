"""Batches of the run, decoded, augmented and tokenized by threads, and always the same ones.

Pillow, libjpeg, zlib and hashlib release Python's lock, so threads scale and views are written straight into the
batch, which worker processes would have to copy. A batch is a function of settings, data and the samples consumed
before it: neither threads, read-ahead, world size nor the place a run was resumed from change it (ranks hold parts of
the same set). (Tars without a manifest are the exception: see `slip.data.unindexed`.)

A damaged sample (wrong digest, or a picture that cannot be decoded) is logged, counted, and replaced by the next good
sample of its window; `sample_ids` names the one that was used. More damaged samples than `data.max_damaged` in
this process stop the run.

Letters: B samples on this rank, S side of a view in pixels, L tokens of the longest caption in the batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import ShardError
from slip.config import TrainConfig
from slip.data.augment import apply
from slip.data.decode import DamagedImageError, decode_rgb
from slip.data.keyed import Purpose, uniforms
from slip.data.samples import DamagedSample, RawSample, Window
from slip.data.source import Slot, Source
from slip.data.tokenizer import Tokenizer, Tokens, cut_to_longest
from slip.data.view_params import NUM_UNIFORMS, ViewKind, draw_params

logger = logging.getLogger(__name__)

_CHUNK = 8
"""Samples a thread takes at a time: enough to make hand-overs cheap, few enough to share a small batch evenly."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """This rank's part of one global batch, on the CPU (pinned where there is a GPU)."""

    samples: int
    """Samples consumed by all ranks before this batch."""
    views: tuple[Tensor, ...]
    """uint8 (B, 3, S, S), one for each view asked for."""
    tokens_BL: Tensor | None
    """int64; None when the objective needs no text."""
    sample_ids: Tensor
    """int64 (B,): positions in the data (see `slip.data.sets`) of the samples that were used."""
    planned_ids: npt.NDArray[np.int64]
    """(B,): the samples that were planned; another where a damaged one was replaced."""
    epochs: npt.NDArray[np.int64]
    """(B,): the pass over its data set that each planned sample belongs to."""
    data_wait_s: float
    """Seconds the consumer waited for this batch."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Pending:
    """A batch in the making: threads fill its buffers."""

    samples: int
    slots: list[Slot]
    views: tuple[Tensor, ...]
    tokens: Tokens
    sample_ids: Tensor
    futures: list[Future[None]]


class Loader:
    """Iterates over this rank's batches. Close it, or use it in a `with` statement; it closes its source."""

    def __init__(
        self, config: TrainConfig, source: Source, views: tuple[ViewKind, ...], *, needs_text: bool = True
    ) -> None:
        self._source = source
        self._views = views
        self._data = config.data
        self._global_batch = config.optim.global_batch
        self._seed = config.seed
        self._image_size = config.model.image_size
        self._tokenizer = Tokenizer(config.model.context_length) if needs_text else None
        self._pin = torch.cuda.is_available()
        self._damaged: dict[int, str] = {}
        self._lock = threading.Lock()
        workers = config.data.workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode") if workers else None
        self._closed = False

    @property
    def damaged(self) -> list[str]:
        """The distinct damaged samples this process has met, each in words."""
        with self._lock:
            return list(self._damaged.values())

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all threads. What they have not begun is dropped."""
        self._closed = True
        # First the source: its windows fail then, for which decode threads may be waiting.
        self._source.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, samples: int, stop: int) -> Iterator[Batch]:
        """The batches from `samples` consumed samples on, to `stop` consumed samples, through as many epochs as needed.

        One iterator at a time. What goes wrong in a thread is raised here, at the batch it belongs to.
        """
        pending: deque[_Pending] = deque()
        submitted = samples
        self._source.start(samples, stop)
        try:
            for begin in range(samples, stop, self._global_batch):
                while submitted < stop and len(pending) <= self._data.prefetch_batches:
                    pending.append(self._submit(submitted))
                    submitted += self._global_batch
                batch = self._finish(pending[0])
                pending.popleft()
                self._source.release(begin + self._global_batch)
                yield batch
        finally:
            for unfinished in pending:
                for future in unfinished.futures:
                    future.cancel()
            self._source.start(0, 0)

    def _submit(self, samples: int) -> _Pending:
        """Ask for everything a batch needs, without waiting."""
        if self._closed:
            raise RuntimeError("the loader is closed")
        slots = self._source.next_batch()
        num, size = len(slots), self._image_size
        length = self._tokenizer.context_length if self._tokenizer is not None else 0
        batch = _Pending(
            samples=samples,
            slots=slots,
            # Fresh memory for each batch: the copy to a GPU may still read the one before (torch keeps pinned
            # blocks until then, and reuses them).
            views=tuple(
                torch.empty((num, 3, size, size), dtype=torch.uint8, pin_memory=self._pin) for _ in self._views
            ),
            tokens=np.zeros((num, length), dtype=np.int64),
            sample_ids=torch.empty(num, dtype=torch.int64),
            futures=[],
        )
        if self._pool is not None:
            rows = [range(i, min(i + _CHUNK, num)) for i in range(0, num, _CHUNK)]
            batch.futures = [self._pool.submit(self._fill, batch, some) for some in rows]
        return batch

    def _wait(self, batch: _Pending, futures: Sequence[Future[Any]]) -> None:
        """Wait for all of the futures; say what for when it takes long."""
        waited_s, done = 0.0, 0
        while done < len(futures):
            try:
                futures[done].result(timeout=self._data.stall_warn_s)
                done += 1
            except TimeoutError:
                if futures[done].done():
                    raise
                waited_s += self._data.stall_warn_s
                logger.warning(
                    "the batch after %d samples is %.0f s late; %d of %d parts are there; being read: %s",
                    *(batch.samples, waited_s, sum(future.done() for future in futures), len(futures)),
                    self._source.waiting_for() or "nothing, so the processor is the limit",
                )

    def _finish(self, pending: _Pending) -> Batch:
        """Wait for a batch and hand it out."""
        begin = time.perf_counter()
        if self._pool is None:
            self._wait(pending, [slot.window for slot in pending.slots])
            self._fill(pending, range(len(pending.slots)))
        self._wait(pending, pending.futures)
        tokens = None
        if self._tokenizer is not None:
            tokens = torch.from_numpy(cut_to_longest(pending.tokens))
            tokens = tokens.pin_memory() if self._pin else tokens
        return Batch(
            samples=pending.samples,
            views=pending.views,
            tokens_BL=tokens,
            sample_ids=pending.sample_ids,
            planned_ids=np.asarray([slot.sample_id for slot in pending.slots], dtype=np.int64),
            epochs=np.asarray([slot.epoch for slot in pending.slots], dtype=np.int64),
            data_wait_s=time.perf_counter() - begin,
        )

    def _fill(self, batch: _Pending, rows: Sequence[int]) -> None:
        """Prepare some samples of a batch (in a decode thread)."""
        captions: list[str] = []
        for row in rows:
            slot = batch.slots[row]
            # Draws belong to the place, not to what stands in for a damaged sample there.
            draw = partial(uniforms, seed=self._seed)
            sample, image = self._good_sample(slot.window.result(), slot.number)
            batch.sample_ids[row] = sample.sample_id
            for number, (kind, views) in enumerate(zip(self._views, batch.views, strict=True)):
                where = (number, slot.sample_id, slot.epoch)
                numbers = draw(NUM_UNIFORMS, purpose=Purpose.VIEW, where=where)
                view = apply(image, draw_params(kind, image.width, image.height, numbers), self._image_size)
                views.numpy()[row] = view.transpose(2, 0, 1)
            choice = draw(1, purpose=Purpose.CAPTION, where=(0, slot.sample_id, slot.epoch))[0]
            captions.append(sample.captions[int(choice * len(sample.captions))])
        if self._tokenizer is not None:
            batch.tokens[rows] = self._tokenizer(captions)

    def _good_sample(self, window: Window, number: int) -> tuple[RawSample, Image.Image]:
        """The sample in slot `number` of a window, or the next one (around the end) that is not damaged."""
        for i in range(len(window)):
            sample = window[(number + i) % len(window)]
            if isinstance(sample, DamagedSample):
                self._count_damaged(sample, sample.detail)
                continue
            try:
                return sample, decode_rgb(sample.image)
            except DamagedImageError as error:
                self._count_damaged(sample, str(error))
        first = window[0]
        raise ShardError(
            f"{first.shard}: all {len(window)} samples of a window are damaged, "
            f"from sample {first.key} at byte {first.offset} on; rebuild the shard"
        )

    def _count_damaged(self, sample: RawSample | DamagedSample, detail: str) -> None:
        what = f"{sample.shard}: sample {sample.key} at byte {sample.offset} is damaged: {detail}"
        with self._lock:
            if sample.sample_id in self._damaged:
                return
            self._damaged[sample.sample_id] = what
            num = len(self._damaged)
        if num > self._data.max_damaged:
            raise ShardError(
                f"{what}; that makes {num} damaged samples, --data.max-damaged allows {self._data.max_damaged}: "
                "repair the data set (build_yfcc15m.py --stage repair), or raise the limit"
            )
        logger.warning("%s; another of its window replaces it", what)
