"""Rows of batches: what is drawn, what a damaged picture does, and that none breaks a worker."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import ShardError
from slip.config import DataConfig, ModelConfig, TrainConfig
from slip.data.decode import open_picture
from slip.data.keyed import Purpose, uniforms
from slip.data.preparer import Buffers, Preparer
from slip.data.samples import DamagedSample, RawSample, Window
from slip.data.source import Slot
from slip.data.view_maker import AugmentMode
from slip.data.view_params import NUM_PARAMS, ViewKind, draw_params, params_row
from tests.mutated_pictures import VARIANTS, encoded, mutated

SIZE = 24
KINDS: tuple[ViewKind, ...] = ("clip", "ssl", "ssl")
PER_VARIANT = 1050
WINDOW = 21


def make_config(mode: AugmentMode = "fast", *, max_damaged: int = 0) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(augment=mode, max_damaged=max_damaged), model=ModelConfig(image_size=SIZE), seed=3
    )


def raw(sample_id: int, image: bytes) -> RawSample:
    return RawSample(sample_id=sample_id, shard="a.tar", offset=0, key=str(sample_id), image=image, text="x", json=b"")


def prepare(preparer: Preparer, window: Sequence[RawSample | DamagedSample], epoch: int = 0) -> Buffers:
    """All samples of a window as a batch."""
    future: Future[Window] = Future()
    future.set_result(window)
    slots = [Slot(future, i, sample.sample_id, epoch) for i, sample in enumerate(window)]
    batch = preparer.buffers(slots, pin=False)
    preparer.fill(batch, range(len(slots)))
    return batch


def test_what_is_left_to_the_device_comes_with_its_parameters() -> None:
    window = [raw(i, encoded("baseline")) for i in (7, 8)]
    finished, crops = (prepare(Preparer(make_config(), KINDS, colours=c), window, epoch=4) for c in (True, False))
    assert finished.params_VBP is None
    assert crops.params_VBP is not None
    assert crops.params_VBP.shape == (3, 2, NUM_PARAMS)
    picture = open_picture(window[0].image)
    for row, sample in enumerate(window):
        drawn = uniforms(1 + 53 * 3, seed=3, purpose=Purpose.SAMPLE, where=(0, sample.sample_id, 4)).tolist()
        for view, kind in enumerate(KINDS):
            params = draw_params(kind, picture.width, picture.height, drawn[1 + 53 * view : 54 + 53 * view])
            expected = np.asarray(params_row(params), dtype=np.float32)
            np.testing.assert_array_equal(crops.params_VBP[view, row].numpy(), expected)
    assert torch.equal(finished.views[0], crops.views[0])  # a CLIP view has nothing but its crop
    assert not torch.equal(finished.views[1], crops.views[1])


@pytest.mark.parametrize("mode", ["fast", "reference"])
def test_a_damaged_picture_is_replaced_and_the_draws_stay(mode: AugmentMode) -> None:
    good, bad = encoded("baseline"), encoded("baseline")[:-60]
    whole = prepare(Preparer(make_config(mode), KINDS), [raw(0, good), raw(1, good), raw(2, good)])
    preparer = Preparer(make_config(mode, max_damaged=1), KINDS)
    mended = prepare(preparer, [raw(0, good), raw(1, bad), raw(2, good)])
    assert mended.sample_ids.tolist() == [0, 2, 2]
    assert len(preparer.damaged) == 1
    assert "a.tar: sample 1 at byte 0 is damaged: the picture cannot be decoded" in preparer.damaged[0]
    for view, expected in zip(mended.views, whole.views, strict=True):
        assert torch.equal(view, expected)
    with pytest.raises(ShardError, match=r"makes 1 damaged samples, --data\.max-damaged allows 0"):
        prepare(Preparer(make_config(mode), KINDS), [raw(0, good), raw(1, bad)])
    with pytest.raises(ShardError, match="all 2 samples of a window are damaged, from sample 0"):
        prepare(Preparer(make_config(mode, max_damaged=9), KINDS), [raw(0, bad), raw(1, bad)])


@pytest.mark.parametrize("name", VARIANTS)
def test_ten_thousand_mutated_pictures_break_nothing_and_each_is_counted(name: str) -> None:
    whole, good, draw = encoded(name), encoded("baseline"), random.Random(name)
    # Small views, so that a header that announces many pixels costs nothing.
    config = replace(make_config(max_damaged=PER_VARIANT), model=ModelConfig(image_size=8))
    preparer = Preparer(config, KINDS)
    used = 0
    for first in range(0, PER_VARIANT, WINDOW):
        # The last one of a window is good: whatever stands before it has something to be replaced by.
        window = [raw(i, mutated(whole, draw)) for i in range(first, first + WINDOW - 1)]
        window.append(raw(first + WINDOW - 1, good))
        batch = prepare(preparer, window)
        assert all(
            sample >= slot.sample_id for sample, slot in zip(batch.sample_ids.tolist(), batch.slots, strict=True)
        )
        used += len(set(batch.sample_ids.tolist()))
    assert used + len(preparer.damaged) == PER_VARIANT
    num_windows = PER_VARIANT // WINDOW
    assert used == num_windows if VARIANTS[name][0] == "GIF" else num_windows < used < PER_VARIANT
