from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ShardError, StoreError
from pipeline.manifest import Manifest, read_index
from slip.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from slip.data.augment import ViewKind, apply, draw_params
from slip.data.decode import decode_rgb
from slip.data.keyed import Purpose, uniforms
from slip.data.loader import Batch, Loader
from slip.data.tokenizer import Tokenizer

MakeDataset = Callable[..., Manifest]
VIEWS: tuple[ViewKind, ...] = ("clip", "ssl", "ssl")
COUNTS = (9, 1, 14, 6)  # 30 samples; batches of 8: three steps an epoch


def make_config(folder: Path, *, workers: int = 2, prefetch: int = 2, max_damaged: int = 0) -> TrainConfig:
    data = DataConfig(
        manifest=str(folder / "manifest.json"),
        lanes=4,
        shuffle_window=4,
        workers=workers,
        prefetch_batches=prefetch,
        max_damaged=max_damaged,
    )
    model = ModelConfig(tower="tiny", image_size=24, context_length=16)
    return TrainConfig(data=data, model=model, optim=OptimConfig(global_batch=8), seed=5)


def load(
    config: TrainConfig, manifest: Manifest, start: int, stop: int, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    with Loader(config, manifest, VIEWS, rank, world_size) as loader:
        return list(loader.batches(start, stop))


def content(batches: list[Batch]) -> dict[tuple[int, int, int], str]:
    """(step, sample, nth time in this batch) -> digest of everything that belongs to the sample."""
    found: dict[tuple[int, int, int], str] = {}
    for batch in batches:
        assert batch.tokens_BL is not None
        padded = np.zeros((len(batch.sample_ids), 16), dtype=np.int64)
        padded[:, : batch.tokens_BL.shape[1]] = batch.tokens_BL.numpy()
        for row, sample in enumerate(batch.sample_ids.tolist()):
            parts = [view[row].numpy().tobytes() for view in batch.views]
            digest = hashlib.sha256(b"".join([*parts, padded[row].tobytes()])).hexdigest()
            nth = sum(key[:2] == (batch.step, sample) for key in found)
            found[batch.step, sample, nth] = digest
    return found


def test_a_batch_by_hand(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest, config = make_dataset(COUNTS), make_config(tmp_path)
    with Loader(config, manifest, VIEWS, 1, 2) as loader:
        assert loader.steps_per_epoch == 3
        (batch,) = loader.batches(4, 5)
        expected_ids = loader.plan.batch(4, 1, 2)
    assert (batch.step, batch.epoch) == (4, 1)
    np.testing.assert_array_equal(batch.sample_ids.numpy(), expected_ids)
    captions, names = [], ("title", "description")
    for row, sample in enumerate(expected_ids.tolist()):
        shard = int(np.searchsorted(np.cumsum(COUNTS), sample, side="right"))
        index = read_index(str(tmp_path), manifest.shards[shard])
        i = sample - sum(COUNTS[:shard])
        start = int(index.image_offset[i])
        data = (tmp_path / f"{shard:05d}.tar").read_bytes()[start : start + int(index.image_size[i])]
        image = decode_rgb(data)
        for number, kind in enumerate(VIEWS):
            numbers = uniforms(53, seed=5, purpose=Purpose.VIEW, where=(number, sample, 1))
            view = apply(image, draw_params(kind, *image.size, numbers), 24)
            np.testing.assert_array_equal(batch.views[number][row].permute(1, 2, 0).numpy(), view)
        usable = [f"{'' if name == 'title' else 'a longer '}{name} of {sample}"
                  for name, every in zip(names, (3, 4), strict=True) if sample % every]  # fmt: skip
        usable = usable or [f"text of {sample}"]
        choice = uniforms(1, seed=5, purpose=Purpose.CAPTION, where=(0, sample, 1))[0]
        captions.append(usable[int(choice * len(usable))])
    tokens = Tokenizer(16)(captions)
    assert batch.tokens_BL is not None
    assert batch.tokens_BL.shape[1] == (tokens != 0).sum(axis=1).max()
    np.testing.assert_array_equal(batch.tokens_BL.numpy(), tokens[:, : batch.tokens_BL.shape[1]])
    assert batch.tokens_BL.is_contiguous()
    assert all(view.is_contiguous() and view.dtype == torch.uint8 for view in batch.views)


def test_batches_do_not_depend_on_threads_ranks_or_where_a_run_resumes(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    manifest = make_dataset(COUNTS)
    expected = content(load(make_config(tmp_path), manifest, 0, 8))
    assert len(expected) == 8 * 8
    for world_size in (1, 2, 4):
        for workers, prefetch in ((1, 0), (3, 5)):
            config = make_config(tmp_path, workers=workers, prefetch=prefetch)
            parts: dict[tuple[int, int, int], str] = {}
            for rank in range(world_size):
                parts |= content(load(config, manifest, 0, 8, rank, world_size))
            assert parts == expected
    # Resumed in the middle of the second epoch, in another layout.
    resumed: dict[tuple[int, int, int], str] = {}
    for rank in range(2):
        resumed |= content(load(make_config(tmp_path, workers=1), manifest, 4, 8, rank, 2))
    assert resumed == {key: value for key, value in expected.items() if key[0] >= 4}


def test_an_epoch_has_every_sample_once_and_views_differ_between_epochs(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    manifest, config = make_dataset((8, 8)), make_config(tmp_path)
    batches = load(config, manifest, 0, 4)
    by_sample: dict[int, list[str]] = {}
    for (_, sample, _), digest in content(batches).items():
        by_sample.setdefault(sample, []).append(digest)
    assert sorted(by_sample) == list(range(16))
    assert all(len(set(digests)) == 2 for digests in by_sample.values())
    assert not torch.equal(batches[0].views[1], batches[0].views[2])


def test_one_loader_serves_several_ranges(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest, config = make_dataset(COUNTS), make_config(tmp_path)
    expected = content(load(config, manifest, 0, 6))
    with Loader(config, manifest, VIEWS, 0, 1) as loader:
        abandoned = loader.batches(0, 6)
        next(abandoned)
        abandoned.close()  # type: ignore[attr-defined]
        found = content([*loader.batches(0, 2), *loader.batches(2, 6)])
        assert list(loader.batches(6, 6)) == []
    assert found == expected


def test_without_text(make_dataset: MakeDataset, tmp_path: Path) -> None:
    with Loader(make_config(tmp_path), make_dataset(COUNTS), ("ssl", "ssl"), 0, 1, needs_text=False) as loader:
        (batch,) = loader.batches(0, 1)
    assert batch.tokens_BL is None
    assert len(batch.views) == 2
    assert batch.data_wait_s > 0


def damage(folder: Path, manifest: Manifest, shard: int, row: int) -> None:
    index = read_index(str(folder), manifest.shards[shard])
    path = folder / manifest.shards[shard].name
    data = bytearray(path.read_bytes())
    data[int(index.image_offset[row]) + 50] ^= 1
    path.write_bytes(data)


def test_damaged_samples_are_named_replaced_and_limited(
    make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Sample 12 has a wrong byte; sample 20 was sealed as it is, but is no picture.
    manifest = make_dataset(COUNTS, images={20: b"<html>gone</html>"})
    clean = load(make_config(tmp_path, max_damaged=1), manifest, 0, 1)
    damage(tmp_path, manifest, 2, 2)
    with Loader(make_config(tmp_path, max_damaged=2), manifest, VIEWS, 0, 1) as loader:
        batches = list(loader.batches(0, 12))
        ids = loader.plan.batch(0)
        assert loader.num_damaged == 2
    assert [tuple(batch.views[0].shape) for batch in clean + batches] == [(8, 3, 24, 24)] * 13
    lines = [record.getMessage() for record in caplog.records if "damaged and replaced" in record.getMessage()]
    assert any("00002.tar: sample 000012 at byte" in line and "sha256" in line for line in lines)
    assert any("00002.tar: sample 000020 at byte" in line and "cannot be decoded" in line for line in lines)
    replaced = 0
    for step, batch in enumerate(batches):
        planned, used = loader.plan.batch(step).tolist(), batch.sample_ids.tolist()
        for lane in range(4):
            for slot in (2 * lane, 2 * lane + 1):
                if planned[slot] not in {12, 20}:
                    assert used[slot] == planned[slot]
                    continue
                replaced += 1
                span = loader.plan.spans(step)[0]
                window = loader.plan.window(batch.epoch, lane, span.window).tolist()
                at = window.index(planned[slot])
                good = [s for s in window[at:] + window[:at] if s not in {12, 20}]
                assert used[slot] == good[0]
    assert replaced >= 4
    assert len(ids) == 8
    # The same on other layouts, replacements included.
    parts: dict[tuple[int, int, int], str] = {}
    for rank in range(4):
        parts |= content(load(make_config(tmp_path, max_damaged=2, workers=1), manifest, 0, 12, rank, 4))
    assert parts == content(batches)
    with pytest.raises(ShardError, match=r"00002.tar: sample 0000(12|20) at byte \d+ is damaged: .*allows 1"):
        load(make_config(tmp_path, max_damaged=1), manifest, 0, 12)


def test_a_window_without_a_good_sample_stops_the_run(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset((30,), images=dict.fromkeys(range(30), b"nothing"))
    with pytest.raises(ShardError, match="all 4 samples of a window are damaged, from sample"):
        load(make_config(tmp_path, max_damaged=1000), manifest, 0, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_in_threads_reach_the_consumer_and_threads_end(
    make_dataset: MakeDataset, tmp_path: Path, workers: int
) -> None:
    manifest = make_dataset(COUNTS)
    before = threading.active_count()
    (tmp_path / "00003.tar").unlink()
    with pytest.raises(StoreError, match=r"00003\.tar"):
        load(make_config(tmp_path, workers=workers), manifest, 0, 6)
    assert threading.active_count() == before
    loader = Loader(make_config(tmp_path, workers=workers), manifest, VIEWS, 0, 1)
    iterator = loader.batches(0, 6)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError):
        next(iterator)
    assert threading.active_count() == before


def test_settings_that_cannot_work(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset((8, 8))
    with pytest.raises(ConfigError, match=r"--data\.lanes 8"):
        Loader(make_config(tmp_path), manifest, VIEWS, 0, 8)
