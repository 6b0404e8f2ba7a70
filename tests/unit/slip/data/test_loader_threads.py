"""The threads that prepare batches: how many there are, what they leave behind, what they say when it takes long."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import StoreError
from slip.data import loader as loader_module
from slip.data.loader import Batch
from slip.data.worker_count import measure
from tests.unit.slip.data.test_loader import BATCH, COUNTS, MakeDataset, content, load, make_config, open_loader


def test_as_many_workers_as_help_and_no_more(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(COUNTS)
    expected = content(load(make_config(tmp_path, workers=1), 0, 20))
    # What this machine would say depends on its load.
    asked: list[list[int]] = []

    def measured(prepare: Callable[[int], int], counts: list[int]) -> dict[int, float]:
        asked.append(counts)
        assert [prepare(i) for i in range(3)] == [BATCH] * 3
        return {1: 500.0, 2: 950.0, 4: 1e6, 6: 1.01e6}

    monkeypatch.setattr(loader_module, "measure", measured)
    monkeypatch.setattr(loader_module, "cores_of_this_rank", lambda: 6)
    base = make_config(tmp_path)
    config = replace(base, data=replace(base.data, workers="auto"))
    used: list[int] = []
    found: list[Batch] = []
    with caplog.at_level(logging.INFO), open_loader(config) as loader:
        for batch in loader.batches(0, 20 * BATCH):
            found.append(batch)
            used.append(loader.workers)
            time.sleep(0.09)  # a step: 8 samples in .09 s are far less than 500 a second
    assert content(found) == expected
    assert asked == [[1, 2, 3, 4, 6]]
    assert (used[0], used[11], used[-1]) == (4, 4, 1)
    assert "samples/s by decode threads on 6 cores: 1: 500, 2: 950, 4: 1000000, 6: 1010000; using 4" in caplog.text
    assert re.search(r"the steps take \d\d samples/s on this rank: 1 decode threads do", caplog.text)


def test_workers_are_measured_on_real_work(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads that prepare the same samples at the same time, and leave no trace in the batch."""
    make_dataset(COUNTS)
    base = make_config(tmp_path)
    base = replace(base, model=replace(base.model, image_size=96))
    config = replace(base, data=replace(base.data, workers="auto"))
    expected = content(load(base, 0, 1))
    monkeypatch.setattr(loader_module, "thread_counts", lambda cores: [4])
    monkeypatch.setattr(loader_module, "measure", partial(measure, seconds=0.01))
    for _ in range(30):
        assert content(load(config, 0, 1)) == expected


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_errors_in_threads_reach_the_consumer_and_threads_end(
    make_dataset: MakeDataset, tmp_path: Path, workers: int
) -> None:
    make_dataset(COUNTS)
    before = threading.active_count()
    (tmp_path / "00003.tar").unlink()
    with pytest.raises(StoreError, match=r"00003\.tar"):
        load(make_config(tmp_path, workers=workers), 0, 6)
    assert threading.active_count() == before
    loader = open_loader(make_config(tmp_path, workers=workers))
    iterator = loader.batches(0, 48)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stall_is_told(
    make_dataset: MakeDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    make_dataset(COUNTS)
    expected = content(load(make_config(tmp_path), 0, 1))
    real = store.read_into
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "s late" in record.getMessage():
                told.set()

    def read_into(url: str, start: int, into: memoryview, *, watch: store.Watch | None = None) -> None:
        assert told.wait(60)
        real(url, start, into, watch=watch)

    monkeypatch.setattr(store, "read_into", read_into)
    logger, listener = logging.getLogger("slip.data.loader"), Listener()
    logger.addHandler(listener)
    config = make_config(tmp_path, workers=workers)
    try:
        assert content(load(replace(config, data=replace(config.data, stall_warn_s=0.05)), 0, 1)) == expected
    finally:
        logger.removeHandler(listener)
    assert re.search(
        r"the batch after 0 samples is 0 s late; 0 of \d+ parts .*\.tar from byte \d+: 0.0 of",
        caplog.text,
    )
