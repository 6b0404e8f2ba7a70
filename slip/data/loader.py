"""Batches of the run, prepared by threads ahead of their use, and always the same ones.

libjpeg, the kernel for crops, torch, zlib and numpy's copies release Python's lock, so threads write straight into the
batch, which worker processes would have to copy. A batch is a function of settings, data and the samples consumed
before it: neither threads, read-ahead, world size nor the place a run was resumed from change it (ranks hold parts of
the same set). (Tars without a manifest are the exception: see `slip.data.unindexed`.) What a row holds is the
business of `slip.data.preparer`, how many threads help that of `slip.data.worker_count`.

Letters: B samples on this rank, V views, P parameters of a view, S side of a view in pixels, L tokens of the longest
caption in the batch.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slip.config import TrainConfig
from slip.data.patch_choice import ALL_PATCHES, PatchChoice
from slip.data.preparer import Buffers, Preparer
from slip.data.source import Source
from slip.data.tokenizer import cut_to_longest
from slip.data.view_params import ViewKind
from slip.data.worker_count import cores_of_this_rank, fewest_enough, measure, thread_counts

logger = logging.getLogger(__name__)

_CHUNK = 8
"""Samples a thread takes at a time: enough to make hand-overs cheap, few enough to share a small batch evenly."""
_UNSETTLED_BATCHES = 2
_SETTLING_BATCHES = 10
"""Batches after the first ones (which pay for start-up) over which the pace of the steps is taken."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """This rank's part of one global batch, on the CPU (pinned where there is a GPU)."""

    samples: int
    """Samples consumed by all ranks before this batch."""
    views: tuple[Tensor, ...]
    """uint8 (B, 3, S, S), one for each view asked for."""
    params_VBP: Tensor | None
    """float32, the views' parameters where colours, blur and flip are left to the device; None: views are finished."""
    keep: tuple[Tensor, ...]
    """int64 (B, K), the patches kept of each view that is not hidden; none: all."""
    hidden: Tensor | None
    """int64 (B, M), the patches hidden in the last view."""
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pending:
    """A batch in the making: threads fill its buffers."""

    samples: int
    buffers: Buffers
    futures: list[Future[None]]

    @property
    def lots(self) -> list[range]:
        """Its rows as threads take them."""
        num = len(self.buffers.slots)
        return [range(i, min(i + _CHUNK, num)) for i in range(0, num, _CHUNK)]


class Loader:
    """Iterates over this rank's batches. Close it, or use it in a `with` statement; it closes its source.

    Without `colours`, jitter, grey, blur and flip are left to the device (the fast mode only).
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        views: tuple[ViewKind, ...],
        *,
        needs_text: bool = True,
        colours: bool = True,
        patches: PatchChoice = ALL_PATCHES,
    ) -> None:
        self._source = source
        self._data = config.data
        self._global_batch = config.optim.global_batch
        self._preparer = Preparer(config, views, needs_text=needs_text, colours=colours, patches=patches)
        self._pin = torch.cuda.is_available()
        self._rates: dict[int, float] = {}
        """Samples per second by number of threads, where that was measured."""
        self.workers = config.data.workers if config.data.workers != "auto" else 1
        self._pool = self._new_pool()
        self._closed = False

    @property
    def damaged(self) -> list[str]:
        """The distinct damaged samples this process has met, each in words."""
        return self._preparer.damaged

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
        steps_s: list[float] = []
        self._source.start(samples, stop)
        try:
            for begin in range(samples, stop, self._global_batch):
                while submitted < stop and len(pending) <= self._data.prefetch_batches:
                    pending.append(self._submit(submitted))
                    submitted += self._global_batch
                    if self._data.workers == "auto" and not self._rates:
                        self._measure_workers(pending[0])
                batch = self._finish(pending[0])
                pending.popleft()
                self._source.release(begin + self._global_batch)
                handed_out = time.perf_counter()
                yield batch
                steps_s.append(time.perf_counter() - handed_out)
                if self._rates and len(steps_s) == _UNSETTLED_BATCHES + _SETTLING_BATCHES:
                    self._settle_workers(len(batch.sample_ids) * _SETTLING_BATCHES / sum(steps_s[_UNSETTLED_BATCHES:]))
        finally:
            for unfinished in pending:
                for future in unfinished.futures:
                    future.cancel()
            self._source.start(0, 0)

    def _new_pool(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="decode") if self.workers else None

    def _use_workers(self, workers: int) -> None:
        """Prepare what is submitted from now on with so many threads."""
        if workers != self.workers:
            before, self.workers = self._pool, workers
            self._pool = self._new_pool()
            if before is not None:
                before.shutdown(wait=False)

    def _measure_workers(self, batch: _Pending) -> None:
        """Find out on the first batch how many threads help, by preparing it again and again."""
        self._wait(batch, batch.futures)
        lots = batch.lots

        def prepare(number: int) -> int:
            # Into memory of its own: views are made in place, and other threads make the same ones.
            slots = [batch.buffers.slots[row] for row in lots[number % len(lots)]]
            self._preparer.fill(self._preparer.buffers(slots, pin=False), range(len(slots)))
            return len(slots)

        cores = cores_of_this_rank()
        self._rates = measure(prepare, thread_counts(cores))
        self._use_workers(fewest_enough(self._rates))
        rates = ", ".join(f"{count}: {rate:.0f}" for count, rate in self._rates.items())
        logger.info("samples/s by decode threads on %d cores: %s; using %d", cores, rates, self.workers)

    def _settle_workers(self, demand: float) -> None:
        """Keep no more threads than the steps have a use for."""
        before = self.workers
        self._use_workers(fewest_enough(self._rates, demand))
        if self.workers != before:
            logger.info("the steps take %.0f samples/s on this rank: %d decode threads do", demand, self.workers)

    def _submit(self, samples: int) -> _Pending:
        """Ask for everything a batch needs, without waiting."""
        if self._closed:
            raise RuntimeError("the loader is closed")
        buffers = self._preparer.buffers(self._source.next_batch(), pin=self._pin)
        batch = _Pending(samples=samples, buffers=buffers, futures=[])
        if self._pool is not None:
            batch.futures.extend(self._pool.submit(self._preparer.fill, buffers, rows) for rows in batch.lots)
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
        buffers = pending.buffers
        if self._pool is None:
            self._wait(pending, [slot.window for slot in buffers.slots])
            self._preparer.fill(buffers, range(len(buffers.slots)))
        self._wait(pending, pending.futures)
        tokens = None
        if self._preparer.context_length:
            tokens = torch.from_numpy(cut_to_longest(buffers.tokens_BL))
            tokens = tokens.pin_memory() if self._pin else tokens
        return Batch(
            samples=pending.samples,
            views=buffers.views,
            params_VBP=buffers.params_VBP,
            keep=buffers.keep,
            hidden=buffers.hidden,
            tokens_BL=tokens,
            sample_ids=buffers.sample_ids,
            planned_ids=np.asarray([slot.sample_id for slot in buffers.slots], dtype=np.int64),
            epochs=np.asarray([slot.epoch for slot in buffers.slots], dtype=np.int64),
            data_wait_s=time.perf_counter() - begin,
        )
