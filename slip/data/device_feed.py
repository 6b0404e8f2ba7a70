"""Batches on the device they are used on: copied, their colours made and normalised, one ahead of the step.

With a GPU a thread does this on a stream of its own: the copy from pinned memory and the augmentation of the next batch
run beside the step under way, and the step waits for their end on the device, not on the host. On a CPU there is
nothing to overlap with, so it is done when a batch is asked for.

Letters: B samples on this rank, V views, P parameters of a view, S side of a view in pixels, L text length.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from slip.data.device_augment import DeviceAugment
from slip.data.loader import Batch
from slip.data.view_params import ViewKind
from slip.models.inputs import TowerInputs

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceBatch:
    """A batch as a step takes it."""

    batch: Batch
    """What it was on the CPU."""
    inputs: TowerInputs
    """What passes the towers, views in the compute dtype."""
    ready: torch.cuda.Event | None
    """Recorded when the device has made all of it; None on a CPU."""


class DeviceFeed:
    """Iterates over `batches` as they are on `device`. Close it, or use it in a `with` statement.

    Args:
        kinds: what each of the views is.
        ahead: whether a thread prepares the next batch while one is in use.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        kinds: tuple[ViewKind, ...],
        *,
        device: torch.device,
        dtype: torch.dtype,
        ahead: bool,
    ) -> None:
        self._batches, self._kinds, self._device = batches, kinds, device
        self._augment = DeviceAugment(device, dtype=dtype)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._closed = threading.Event()
        # One waits here, one is being made, one is in use.
        self._queue: queue.Queue[DeviceBatch | BaseException | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._run, name="device-feed", daemon=True) if ahead else None
        self.wait_s = 0.0
        """Seconds the last `__next__` waited."""
        if self._thread is not None:
            self._thread.start()

    def __enter__(self) -> DeviceFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> DeviceFeed:
        return self

    def __next__(self) -> DeviceBatch:
        """The next batch, usable on the current stream. What went wrong in making it is raised here."""
        begin = time.perf_counter()
        if self._thread is None:
            found: DeviceBatch | BaseException | None = self._make(next(self._batches))
        else:
            found = self._queue.get()
        self.wait_s = time.perf_counter() - begin
        if found is None or isinstance(found, BaseException):
            self._queue.put(None)  # it ends for good
            raise found or StopIteration
        if found.ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(found.ready)
            # Their memory belongs to the other stream, which must not use it again before this one has read it.
            inputs = found.inputs
            for tensor in (*inputs.views, *inputs.keep, inputs.tokens, inputs.hidden):
                if tensor is not None:
                    tensor.record_stream(stream)
        return found

    def close(self) -> None:
        """End the thread; the batches themselves are their loader's to close."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _put(self, found: DeviceBatch | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(found, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                batch = next(self._batches, None)
                self._put(None if batch is None else self._make(batch))
                if batch is None:
                    return
        except BaseException as error:  # for whoever waits for the batch
            self._put(error)

    def _make(self, batch: Batch) -> DeviceBatch:
        if self._stream is None:
            return self._made(batch, None)
        with torch.cuda.stream(self._stream):
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            made = self._made(batch, event)
            event.record(self._stream)
            return made

    def _made(self, batch: Batch, ready: torch.cuda.Event | None) -> DeviceBatch:
        def put(tensor: Tensor) -> Tensor:
            return tensor.to(self._device, non_blocking=True)

        params_VBP = put(batch.params_VBP) if batch.params_VBP is not None else None
        views = []
        for number, (kind, view) in enumerate(zip(self._kinds, batch.views, strict=True)):
            colours = params_VBP is not None and kind == "ssl"
            params_BP = params_VBP[number] if params_VBP is not None and colours else None
            views.append(self._augment(put(view), params_BP))
        inputs = TowerInputs(
            views=tuple(views),
            tokens=put(batch.tokens_BL) if batch.tokens_BL is not None else None,
            # The end token has the highest id.
            lengths=batch.tokens_BL.argmax(dim=1) + 1 if batch.tokens_BL is not None else None,
            keep=tuple(put(keep_BK) for keep_BK in batch.keep),
            hidden=put(batch.hidden) if batch.hidden is not None else None,
        )
        return DeviceBatch(batch=batch, inputs=inputs, ready=ready)
