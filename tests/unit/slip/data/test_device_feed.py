"""Batches on the device: the same whether a thread prepares them ahead or not; errors and ends reach the consumer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from slip.data.augment import normalise
from slip.data.device_augment import finish_views
from slip.data.device_feed import DeviceBatch, DeviceFeed
from slip.data.loader import Batch
from slip.data.view_params import NUM_UNIFORMS, ViewKind, draw_params, params_row

KINDS: tuple[ViewKind, ...] = ("clip", "ssl")
CPU = torch.device("cpu")
B, S = 3, 16


def make_batch(number: int, *, colours_left: bool) -> Batch:
    generator = np.random.Generator(np.random.Philox(number))
    rows = [[params_row(draw_params(kind, 40, 30, generator.random(NUM_UNIFORMS).tolist())) for _ in range(B)]
            for kind in KINDS]  # fmt: skip
    return Batch(
        samples=number,
        views=tuple(torch.from_numpy(generator.integers(0, 256, (B, 3, S, S), dtype=np.uint8)) for _ in KINDS),
        params_VBP=torch.tensor(rows, dtype=torch.float32) if colours_left else None,
        keep=(torch.full((B, 2), number),),
        hidden=torch.full((B, 1), number),
        tokens_BL=torch.full((B, 7), number),
        sample_ids=torch.arange(B),
        planned_ids=np.arange(B),
        epochs=np.zeros(B, dtype=np.int64),
        data_wait_s=0.0,
    )


def open_feed(batches: Iterator[Batch], *, ahead: bool, dtype: torch.dtype = torch.float32) -> DeviceFeed:
    return DeviceFeed(batches, KINDS, device=CPU, dtype=dtype, ahead=ahead)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("colours_left", [False, True])
def test_views_are_finished_and_in_order(ahead: bool, colours_left: bool) -> None:
    batches = [make_batch(i, colours_left=colours_left) for i in range(5)]
    with open_feed(iter(batches), ahead=ahead) as feed:
        found: list[DeviceBatch] = list(feed)
        with pytest.raises(StopIteration):
            next(feed)
    assert [fed.batch.samples for fed in found] == list(range(5))
    for fed, batch in zip(found, batches, strict=True):
        assert fed.ready is None
        inputs = fed.inputs
        assert inputs.tokens is not None
        assert inputs.hidden is not None
        assert torch.equal(inputs.tokens, torch.full((B, 7), batch.samples))
        assert torch.equal(inputs.hidden, torch.full((B, 1), batch.samples))
        assert [keep_BK.tolist() for keep_BK in inputs.keep] == [[[batch.samples] * 2] * B]
        torch.testing.assert_close(inputs.views[0], normalise(batch.views[0]))
        expected = normalise(batch.views[1])
        if batch.params_VBP is not None:
            expected = finish_views(batch.views[1], batch.params_VBP[1], colours=True, dtype=torch.float32)
        torch.testing.assert_close(inputs.views[1], expected)


def test_views_come_in_the_compute_dtype() -> None:
    with open_feed(iter([make_batch(0, colours_left=True)]), ahead=False, dtype=torch.bfloat16) as feed:
        assert all(view.dtype == torch.bfloat16 for view in next(feed).inputs.views)


def test_lengths_of_captions_are_told() -> None:
    batch = make_batch(5, colours_left=False)
    assert batch.tokens_BL is not None
    ends = torch.tensor([2, 6, 0])
    batch.tokens_BL[torch.arange(B), ends] = 49_407
    with open_feed(iter([batch]), ahead=False) as feed:
        lengths = next(feed).inputs.lengths
    assert lengths is not None
    assert torch.equal(lengths, ends + 1)


@pytest.mark.parametrize("ahead", [False, True])
def test_what_goes_wrong_is_raised_after_the_batches_before_it(ahead: bool) -> None:
    def broken() -> Iterator[Batch]:
        yield make_batch(0, colours_left=False)
        raise OSError("gone")

    with open_feed(broken(), ahead=ahead) as feed:
        next(feed)
        with pytest.raises(OSError, match="gone"):
            next(feed)
        with pytest.raises(StopIteration):
            next(feed)


def test_no_more_than_two_batches_are_made_ahead_and_the_thread_ends() -> None:
    made: list[int] = []
    third = threading.Event()

    def counted() -> Iterator[Batch]:
        for i in range(100):
            made.append(i)
            if i == 2:
                third.set()
            yield make_batch(i, colours_left=False)

    before = threading.active_count()
    with open_feed(counted(), ahead=True) as feed:
        next(feed)
        assert third.wait(30)
        feed._closed.wait(0.1)
        # One in use, one waiting, one in the thread's hands.
        assert made == [0, 1, 2]
    assert threading.active_count() == before
