"""Batches of the plan, decoded, augmented and tokenized by threads, and always the same ones.

Pillow, libjpeg, zlib and hashlib release Python's lock, so threads scale and views are written straight into the
batch, which worker processes would have to copy. A batch is a function of settings, manifest and step: neither
threads, read-ahead, world size nor the step a run was resumed from change it (ranks hold parts of the same set).

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
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import store
from pipeline.errors import ShardError
from pipeline.manifest import Manifest, manifest_url
from slip.config import TrainConfig
from slip.data.augment import NUM_UNIFORMS, ViewKind, apply, draw_params
from slip.data.decode import DamagedImageError, decode_rgb
from slip.data.keyed import Purpose, uniforms
from slip.data.plan import Plan
from slip.data.stream import DamagedSample, RawSample, SampleReader, Window
from slip.data.tokenizer import Tokenizer, Tokens, cut_to_longest

logger = logging.getLogger(__name__)

_CHUNK = 8
"""Samples a thread takes at a time: enough to make hand-overs cheap, few enough to share a small batch evenly."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """This rank's part of one global batch, on the CPU (pinned where there is a GPU)."""

    step: int
    """Optimizer steps before this one, over all epochs."""
    epoch: int
    views: tuple[Tensor, ...]
    """uint8 (B, 3, S, S), one for each view asked for."""
    tokens_BL: Tensor | None
    """int64; None when the objective needs no text."""
    sample_ids: Tensor
    """int64 (B,): positions in the manifest."""
    data_wait_s: float
    """Seconds the consumer waited for this batch."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Pending:
    """A batch in the making: threads fill its buffers."""

    step: int
    epoch: int
    views: tuple[Tensor, ...]
    tokens: Tokens
    sample_ids: Tensor
    futures: list[Future[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """A place in the batch: number `number` of a window that is being read."""

    row: int
    window: Future[Window]
    number: int


class Loader:
    """Iterates over this rank's batches. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        config: TrainConfig,
        manifest: Manifest,
        views: tuple[ViewKind, ...],
        rank: int,
        world_size: int,
        *,
        needs_text: bool = True,
    ) -> None:
        self.plan = Plan(
            counts=tuple(shard.num_samples for shard in manifest.shards),
            seed=config.seed,
            global_batch=config.optim.global_batch,
            lanes=config.data.lanes,
            shuffle_window=config.data.shuffle_window,
        )
        self._lanes = self.plan.own_lanes(rank, world_size)
        self._views = views
        self._data = config.data
        self._seed = config.seed
        self._image_size = config.model.image_size
        self._tokenizer = Tokenizer(config.model.context_length) if needs_text else None
        self._pin = torch.cuda.is_available()
        self._damaged: set[int] = set()
        self._lock = threading.Lock()
        base_url = store.parent(manifest_url(config.data.manifest))
        self._base_url = base_url
        self._reader = SampleReader(manifest, base_url, self.plan, num_lanes=len(self._lanes))
        self._pool = ThreadPoolExecutor(config.data.workers, thread_name_prefix="decode")
        window = min(config.data.shuffle_window, self.plan.lane_samples)
        held = 2 * len(self._lanes) * window * manifest.num_bytes / max(manifest.num_samples, 1)
        logger.info(
            "%d samples, %d steps an epoch; reading %d of %d lanes, up to %.0f MB ahead",
            self.plan.num_samples, self.steps_per_epoch, len(self._lanes), self.plan.lanes, held / 1e6,
        )  # fmt: skip

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch, the same on every rank."""
        return self.plan.steps_per_epoch

    @property
    def num_damaged(self) -> int:
        """Distinct damaged samples this process has met."""
        return len(self._damaged)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all threads. What they are doing is waited for, what they have not begun is dropped."""
        # The reader ends after the threads that wait for its windows; what it has not begun would never come.
        self._reader.forget()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of global steps [start_step, stop_step), through as many epochs as these span.

        One iterator at a time. What goes wrong in a thread is raised here, at the step it belongs to.
        """
        pending: deque[_Pending] = deque()
        submitted = start_step
        try:
            for _ in range(start_step, stop_step):
                while submitted < stop_step and len(pending) <= self._data.prefetch_batches:
                    pending.append(self._submit(submitted, stop_step))
                    submitted += 1
                batch = self._finish(pending[0])
                pending.popleft()
                yield batch
        finally:
            for unfinished in pending:
                for future in unfinished.futures:
                    future.cancel()
            self._reader.forget()

    def _submit(self, step: int, stop_step: int) -> _Pending:
        """Ask for everything batch `step` needs, without waiting."""
        epoch, spans = self.plan.epoch_of(step), self.plan.spans(step)
        slots: list[_Slot] = []
        for lane in self._lanes:
            for span in spans:
                next_epoch, next_window, first_step = self.plan.next_window(epoch, span.window)
                ahead = (next_epoch, next_window) if first_step < stop_step else None
                window = self._reader.window(epoch, lane, span.window, ahead=ahead)
                slots += [
                    _Slot(row=len(slots) + i, window=window, number=number)
                    for i, number in enumerate(range(span.start, span.stop))
                ]
        num, size = len(slots), self._image_size
        length = self._tokenizer.context_length if self._tokenizer is not None else 0
        batch = _Pending(
            step=step,
            epoch=epoch,
            # Fresh memory for each batch: the copy to a GPU may still read the one before (torch keeps pinned
            # blocks until then, and reuses them).
            views=tuple(
                torch.empty((num, 3, size, size), dtype=torch.uint8, pin_memory=self._pin) for _ in self._views
            ),
            tokens=np.zeros((num, length), dtype=np.int64),
            sample_ids=torch.empty(num, dtype=torch.int64),
            futures=[],
        )
        batch.futures = [self._pool.submit(self._fill, batch, slots[i : i + _CHUNK]) for i in range(0, num, _CHUNK)]
        return batch

    def _finish(self, pending: _Pending) -> Batch:
        """Wait for a batch and hand it out."""
        begin = time.perf_counter()
        for future in pending.futures:
            future.result()
        tokens = None
        if self._tokenizer is not None:
            tokens = torch.from_numpy(cut_to_longest(pending.tokens))
            tokens = tokens.pin_memory() if self._pin else tokens
        return Batch(
            step=pending.step,
            epoch=pending.epoch,
            views=pending.views,
            tokens_BL=tokens,
            sample_ids=pending.sample_ids,
            data_wait_s=time.perf_counter() - begin,
        )

    def _fill(self, batch: _Pending, slots: Sequence[_Slot]) -> None:
        """Prepare some samples of a batch (in a decode thread)."""
        captions: list[str] = []
        for slot in slots:
            window = slot.window.result()
            # Draws belong to the place, not to what stands in for a damaged sample there.
            place = window[slot.number].sample_id
            sample, image = self._good_sample(window, slot.number)
            batch.sample_ids[slot.row] = sample.sample_id
            for number, (kind, views) in enumerate(zip(self._views, batch.views, strict=True)):
                where = (number, place, batch.epoch)
                numbers = uniforms(NUM_UNIFORMS, seed=self._seed, purpose=Purpose.VIEW, where=where)
                view = apply(image, draw_params(kind, image.width, image.height, numbers), self._image_size)
                views.numpy()[slot.row] = view.transpose(2, 0, 1)
            choice = uniforms(1, seed=self._seed, purpose=Purpose.CAPTION, where=(0, place, batch.epoch))[0]
            captions.append(sample.captions[int(choice * len(sample.captions))])
        if self._tokenizer is not None:
            batch.tokens[[slot.row for slot in slots]] = self._tokenizer(captions)

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
            f"{store.join(self._base_url, first.shard)}: all {len(window)} samples of a window are damaged, "
            f"from sample {first.key} at byte {first.offset} on; rebuild the shard"
        )

    def _count_damaged(self, sample: RawSample | DamagedSample, detail: str) -> None:
        url = store.join(self._base_url, sample.shard)
        with self._lock:
            if sample.sample_id in self._damaged:
                return
            self._damaged.add(sample.sample_id)
            num = len(self._damaged)
        if num > self._data.max_damaged:
            raise ShardError(
                f"{url}: sample {sample.key} at byte {sample.offset} is damaged: {detail}; that makes {num} damaged "
                f"samples, --data.max-damaged allows {self._data.max_damaged}: rebuild the shard or raise the limit"
            )
        logger.warning("%s: sample %s at byte %d is damaged and replaced: %s", url, sample.key, sample.offset, detail)
