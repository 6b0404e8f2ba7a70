"""Writes checkpoints beside training: a step waits for a copy in host memory, a thread does the rest.

In: a `State` whose tensors go on changing. Out: OUTPUT/checkpoints/step-00001200.pt, whole or not at all, best.json
after it, and nothing older than was asked to be kept. The order of a write is: checkpoint, `then`, best.json, old
checkpoints away; a process killed between any two of them leaves a newest checkpoint that is complete and a best.json
that names one that exists. What a checkpoint holds and how it is found again is `slip.checkpoint`'s part.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import store
from pipeline.errors import StoreError
from slip import checkpoint
from slip.checkpoint import State

logger = logging.getLogger(__name__)

_PLAIN = (bool, int, float, str, bytes, type(None))
# Tensors begin at whole cache lines.
_ALIGNMENT = 64
_PORTABLE = 1
# A file of another machine that did not grow for so long belongs to a process that was killed.
_ABANDONED_S = 3600.0


def mapped(value: Any, place: Callable[[Tensor], Tensor], name: str = "state") -> Any:
    """A copy of plain data, its tensors replaced: {"a": (t, 1)} -> {"a": (place(t), 1)}.

    TypeError for anything that a checkpoint could be written with, but not read again (weights_only).
    """
    if isinstance(value, Tensor):
        return place(value)
    if isinstance(value, dict):
        return {mapped(key, place, name): mapped(one, place, f"{name}.{key}") for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mapped(one, place, f"{name}.{i}") for i, one in enumerate(value))
    if type(value) not in _PLAIN:
        found = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name} is a {found}; a checkpoint holds tensors and plain data only")
    return value


def _bytes(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _copy(place: Tensor, tensor: Tensor) -> None:
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        # torch copies with all its threads, which wait for each other: 300 MB on two cores that others used as well
        # took it 0.20 s, one thread 0.06 s.
        np.copyto(_bytes(place), _bytes(tensor))
    else:
        place.copy_(tensor, non_blocking=tensor.is_cuda)


class HostMemory:
    """One block of host memory into which tensors are copied, the same from copy to copy; pinned for a GPU's."""

    def __init__(self) -> None:
        self._layout: list[tuple[torch.Size, torch.dtype]] = []
        self._places: list[Tensor] = []
        self._pinned: int | None = None

    def _allocate(self, tensors: list[Tensor], *, pin: bool) -> None:
        self.free()
        offsets, num_bytes = [], 0
        for tensor in tensors:
            offsets.append(num_bytes)
            num_bytes += math.ceil(tensor.numel() * tensor.element_size() / _ALIGNMENT) * _ALIGNMENT
        block = torch.empty(max(num_bytes, 1), dtype=torch.uint8)
        if pin:
            # Registered, as torch's own pinned memory comes in powers of two: 2.2 GB would take 4.3.
            if int(torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, _PORTABLE)) == 0:  # type: ignore[no-untyped-call]
                self._pinned = block.data_ptr()
            else:
                logger.warning("%d MB of host memory cannot be pinned; checkpoints wait longer", block.nbytes // 10**6)
        # Each place has a storage of its own, which is what torch.save writes; all keep the block alive.
        memory = block.numpy()
        self._places = [
            torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset).view(tensor.shape)
            if tensor.numel()
            else torch.empty(tensor.shape, dtype=tensor.dtype)
            for tensor, offset in zip(tensors, offsets, strict=True)
        ]
        self._layout = [(tensor.shape, tensor.dtype) for tensor in tensors]

    def copy(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copies on the host, complete on return and valid until the next call."""
        devices = {tensor.device for tensor in tensors if tensor.is_cuda}
        if self._layout != [(tensor.shape, tensor.dtype) for tensor in tensors]:
            self._allocate(tensors, pin=bool(devices))
        for place, tensor in zip(self._places, tensors, strict=True):
            _copy(place, tensor.detach())
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return self._places

    def free(self) -> None:
        """Give the memory back; copies made so far are no longer valid."""
        if self._pinned is not None:
            torch.cuda.cudart().cudaHostUnregister(self._pinned)  # type: ignore[no-untyped-call]
        self._layout, self._places, self._pinned = [], [], None


def _scratch(output: str) -> tuple[Path, str]:
    """Where checkpoints are serialised: beside their place, or for a remote output in the temporary folder.

    Comes with a beginning of names that is this run's alone.
    """
    if store.is_local(output):
        return Path(store.filesystem(store.join(output, checkpoint.FOLDER))[1]), ""
    return Path(tempfile.gettempdir()), f"slip-{sha256(output.encode()).hexdigest()[:12]}-"


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Delete what killed processes left of this run's checkpoints. Others may be alive: the run's last job, ending."""
    name = re.compile(rf"{re.escape(prefix)}step-\d+\.pt\.part-(.+)-(\d+)")
    for path in folder.glob(f"{prefix}step-*.pt.part-*"):
        match = name.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):
            here = match.group(1) == socket.gethostname()
            dead = int(match.group(2)) == os.getpid() or not Path(f"/proc/{match.group(2)}").exists()
            old = time.time() - path.stat().st_mtime > _ABANDONED_S
            if old or (here and dead and Path("/proc/self").exists()):
                path.unlink()


@contextmanager
def _serialised(fields: dict[str, Any], url: str, folder: Path, prefix: str) -> Iterator[Path]:
    """A local file that holds the checkpoint, written tensor by tensor: no second copy is in memory."""
    name = url.rpartition("/")[2]
    part = folder / f"{prefix}{name}.part-{socket.gethostname()}-{os.getpid()}"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A file, not its name: torch then says which error it met.
            with part.open("wb") as file:
                torch.save(fields, file)
        except OSError as error:
            raise StoreError(
                f"{url}: cannot write: {error} ({part}); "
                + ("" if not prefix else "TMPDIR names the folder for such files; ")
                + "free some space or make the folder writable, then run the same command again"
            ) from error
        yield part
    finally:
        with suppress(OSError):
            part.unlink()


class CheckpointWriter:
    """Writes the checkpoints of one run, one at a time; for one process of it, which leaves the block at the end.

    A write that failed is raised by the next call or on leaving. Leaving waits for the write under way, also when an
    exception is: it may be the checkpoint that matters.
    """

    def __init__(self, output: str, *, keep: int) -> None:
        self._output = output
        self._keep = keep
        self._memory = HostMemory()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._cleaned = False
        self.waited_s = 0.0
        """Seconds training waited in the last `write`, for the write before it included."""
        self.written_s = 0.0
        """Seconds the last finished write took, until the checkpoint had its name."""

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            # The exception under way is what ended the run.
            logger.error("the last checkpoint was not written: %s", failure, exc_info=failure)

    def write(self, state: State, *, best: float | None = None, then: Callable[[], None] | None = None) -> None:
        """Write a checkpoint beside what follows; returns as soon as the state may change again.

        Args:
            state: its tensors are copied before this returns.
            best: its zero-shot accuracy if that is the best of the run so far.
            then: called by the thread once the checkpoint is there.
        """
        started = time.perf_counter()
        self.wait()
        # Not dataclasses.asdict, which would copy every tensor.
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        tensors: list[Tensor] = []

        def found(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        mapped(fields, found)
        places = iter(self._memory.copy(tensors))
        copied = mapped(fields, lambda _: next(places))
        self.waited_s = time.perf_counter() - started
        self._pending = self._thread.submit(self._finish, copied, state.step, best, then, self.waited_s)

    def wait(self) -> None:
        """Block until all is written, and raise what went wrong."""
        if self._pending is not None:
            pending = self._pending
            try:
                pending.result()
            finally:
                # An interrupted wait has not seen the end.
                if pending.done():
                    self._pending = None

    def close(self) -> None:
        """Wait for the last write and give the memory back."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._memory.free()

    def _finish(
        self, fields: dict[str, Any], step: int, best: float | None, then: Callable[[], None] | None, waited_s: float
    ) -> None:
        """The thread's part. Each line leaves behind it what a reader may find."""
        started = time.perf_counter()
        url = checkpoint.url_of(self._output, step)
        folder, prefix = _scratch(self._output)
        if not self._cleaned:
            _remove_abandoned(folder, prefix)
            self._cleaned = True
        with _serialised(fields, url, folder, prefix) as part:
            num_bytes = part.stat().st_size
            store.move_file(part, url)
        self.written_s = time.perf_counter() - started
        logger.info(
            "step %d: wrote %s (%.1f MB in %.2f s, training waited %.2f s)",
            *(step, url, num_bytes / 1e6, self.written_s, waited_s),
        )
        if then is not None:
            then()
        if best is not None:
            named = {"step": step, "metric": checkpoint.METRIC, "value": best}
            url_of_best = store.join(self._output, checkpoint.FOLDER, checkpoint.BEST)
            store.write_bytes(url_of_best, json.dumps(named).encode() + b"\n")
        self._prune(step)

    def _prune(self, written: int) -> None:
        """Delete all but the newest checkpoints, the best and the one just written, oldest first."""
        steps = checkpoint.steps_of(self._output)
        found = checkpoint.best(self._output)
        kept = {written, *steps[-max(self._keep, 1) :]}
        for step in steps:
            url = checkpoint.url_of(self._output, step)
            if step not in kept and (found is None or url != found[0]):
                store.delete(url)
