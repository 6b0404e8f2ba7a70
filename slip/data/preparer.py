"""Slots of a batch to rows of its buffers: pictures decoded and augmented, captions drawn and tokenized.

What a row holds is a function of seed, epoch and sample: every number that is drawn for a sample comes from one
counter-based stream keyed by them, its caption first, then its views in order. `Preparer.fill` is called by several
threads, each with rows of its own.

A damaged sample (wrong digest, or a picture that cannot be decoded) is logged, counted, and replaced by the next good
sample of its window; `sample_ids` names the one that was used. Draws belong to the place, not to what stands in for
a damaged sample there. More damaged samples than `data.max_damaged` in this process stop the run.

Letters: B samples on this rank, V views, P parameters of a view, S side of a view in pixels, L tokens.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ShardError
from slip.config import TrainConfig
from slip.data.decode import DamagedImageError, Picture, Pixels, open_picture
from slip.data.keyed import Purpose, uniforms
from slip.data.patch_choice import ALL_PATCHES, PatchChoice, choose
from slip.data.samples import DamagedSample, RawSample, Window
from slip.data.source import Slot
from slip.data.tokenizer import Tokenizer, Tokens
from slip.data.view_maker import fill_views
from slip.data.view_params import NUM_PARAMS, NUM_UNIFORMS, ViewKind, ViewParams, draw_params, params_row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Buffers:
    """A batch in the making."""

    slots: list[Slot]
    views: tuple[Tensor, ...]
    """uint8 (B, 3, S, S) each."""
    params_VBP: Tensor | None
    """float32 parameters of all views, where the device makes their colours; else None."""
    tokens_BL: Tokens
    sample_ids: Tensor
    """int64 (B,)."""
    keep: tuple[Tensor, ...]
    """int64 (B, K), the patches kept of each view that is not hidden; none: all."""
    hidden: Tensor | None
    """int64 (B, M), the patches hidden in the last view."""


class Preparer:
    """Makes rows of batches; without `colours`, jitter, grey, blur and flip are left to the device."""

    def __init__(
        self,
        config: TrainConfig,
        kinds: tuple[ViewKind, ...],
        *,
        needs_text: bool = True,
        colours: bool = True,
        patches: PatchChoice = ALL_PATCHES,
    ) -> None:
        self._kinds, self._colours, self._patches = kinds, colours, patches
        self._mode, self._max_damaged = config.data.augment, config.data.max_damaged
        self._seed, self._image_size = config.seed, config.model.image_size
        self._tokenizer = Tokenizer(config.model.context_length) if needs_text else None
        self._damaged: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def damaged(self) -> list[str]:
        """The distinct damaged samples this process has met, each in words."""
        with self._lock:
            return list(self._damaged.values())

    @property
    def context_length(self) -> int:
        """Tokens a row has room for; 0 without text."""
        return self._tokenizer.context_length if self._tokenizer is not None else 0

    def buffers(self, slots: list[Slot], *, pin: bool) -> Buffers:
        """Room for a batch, in pinned memory where a GPU will read it."""
        num, size, views, patches = len(slots), self._image_size, len(self._kinds), self._patches
        num_masked = views - bool(patches.hidden) if patches.kept else 0

        def numbers(count: int) -> Tensor:
            return torch.zeros((num, count), dtype=torch.int64, pin_memory=pin)

        # Fresh memory for each batch: the copy to a GPU may still read the one before (torch keeps pinned
        # blocks until then, and reuses them).
        return Buffers(
            slots=slots,
            views=tuple(torch.empty((num, 3, size, size), dtype=torch.uint8, pin_memory=pin) for _ in range(views)),
            params_VBP=None if self._colours else torch.empty((views, num, NUM_PARAMS), pin_memory=pin),
            tokens_BL=np.zeros((num, self.context_length), dtype=np.int64),
            sample_ids=torch.empty(num, dtype=torch.int64),
            keep=tuple(numbers(patches.kept) for _ in range(num_masked)),
            hidden=numbers(patches.hidden) if patches.hidden else None,
        )

    def fill(self, batch: Buffers, rows: Sequence[int]) -> None:
        """Prepare some rows, of which no other thread may prepare any meanwhile. Doing it again writes the same."""
        captions: list[str] = []
        # Through numpy: an assignment to one place of a tensor costs torch several microseconds.
        views, sample_ids = [view.numpy() for view in batch.views], batch.sample_ids.numpy()
        params_VBP = batch.params_VBP.numpy() if batch.params_VBP is not None else None
        count = 1 + NUM_UNIFORMS * len(self._kinds)
        for row in rows:
            slot = batch.slots[row]
            where = (0, slot.sample_id, slot.epoch)
            drawn: list[float] = uniforms(count, seed=self._seed, purpose=Purpose.SAMPLE, where=where).tolist()
            sample, params = self._fill_views(slot, drawn[1:], [view[row] for view in views])
            sample_ids[row] = sample.sample_id
            if params_VBP is not None:
                params_VBP[:, row] = np.array([params_row(view_params) for view_params in params], dtype=np.float32)
            self._choose_patches(batch, row, slot)
            captions.append(sample.captions[int(drawn[0] * len(sample.captions))])
        if self._tokenizer is not None:
            batch.tokens_BL[rows] = self._tokenizer(captions)

    def _fill_views(self, slot: Slot, drawn: list[float], outs: list[Pixels]) -> tuple[RawSample, list[ViewParams]]:
        """Make the views of a slot's sample, or of the next one of its window (around the end) that is not damaged."""
        window: Window = slot.window.result()
        for i in range(len(window)):
            sample = window[(slot.number + i) % len(window)]
            if isinstance(sample, DamagedSample):
                self._count_damaged(sample, sample.detail)
                continue
            try:
                picture = open_picture(sample.image)
                params = self._params(picture, drawn)
                fill_views(picture, params, outs, mode=self._mode, colours=self._colours)
            except DamagedImageError as error:
                self._count_damaged(sample, str(error))
                continue
            return sample, params
        first = window[0]
        raise ShardError(
            f"{first.shard}: all {len(window)} samples of a window are damaged, "
            f"from sample {first.key} at byte {first.offset} on; rebuild the shard"
        )

    def _choose_patches(self, batch: Buffers, row: int, slot: Slot) -> None:
        def chosen(view: int, *, hide: bool) -> Tensor:
            where = {"seed": self._seed, "sample_id": slot.sample_id, "epoch": slot.epoch}
            return torch.from_numpy(choose(self._patches, view, hide=hide, **where))

        for view, keep in enumerate(batch.keep):
            keep[row] = chosen(view, hide=False)
        if batch.hidden is not None:
            batch.hidden[row] = chosen(len(self._kinds) - 1, hide=True)

    def _params(self, picture: Picture, drawn: list[float]) -> list[ViewParams]:
        return [
            draw_params(kind, picture.width, picture.height, drawn[NUM_UNIFORMS * i : NUM_UNIFORMS * (i + 1)])
            for i, kind in enumerate(self._kinds)
        ]

    def _count_damaged(self, sample: RawSample | DamagedSample, detail: str) -> None:
        what = f"{sample.shard}: sample {sample.key} at byte {sample.offset} is damaged: {detail}"
        with self._lock:
            if sample.sample_id in self._damaged:
                return
            self._damaged[sample.sample_id] = what
            num = len(self._damaged)
        if num > self._max_damaged:
            raise ShardError(
                f"{what}; that makes {num} damaged samples, --data.max-damaged allows {self._max_damaged}: "
                "repair the data set (build_yfcc15m.py --stage repair), or raise the limit"
            )
        logger.warning("%s; another of its window replaces it", what)
