from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ShardError
from pipeline.manifest import Manifest, read_index
from slip.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from slip.data.augment import apply
from slip.data.decode import decode_rgb
from slip.data.keyed import Purpose, uniforms
from slip.data.loader import Batch, Loader
from slip.data.opening import open_source
from slip.data.stream import SampleReader
from slip.data.tokenizer import Tokenizer
from slip.data.view_params import ViewKind, draw_params

MakeDataset = Callable[..., Manifest]
VIEWS: tuple[ViewKind, ...] = ("clip", "ssl", "ssl")
COUNTS = (9, 1, 14, 6)  # 30 samples; batches of 8: the fourth ends in the second epoch
BATCH = 8


def make_config(folder: Path, *, workers: int = 2, prefetch: int = 2, max_damaged: int = 0) -> TrainConfig:
    data = DataConfig(
        manifest=(str(folder / "manifest.json"),),
        lanes=4,
        shuffle_window=4,
        workers=workers,
        prefetch_batches=prefetch,
        max_damaged=max_damaged,
    )
    model = ModelConfig(tower="tiny", image_size=24, context_length=16)
    return TrainConfig(data=data, model=model, optim=OptimConfig(global_batch=BATCH), seed=5)


def open_loader(config: TrainConfig, rank: int = 0, world_size: int = 1) -> Loader:
    return Loader(config, open_source(config, rank, world_size), VIEWS)


def load(config: TrainConfig, start: int, stop: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """The batches of steps [start, stop)."""
    with open_loader(config, rank, world_size) as loader:
        return list(loader.batches(start * BATCH, stop * BATCH))


def content(batches: list[Batch]) -> dict[tuple[int, int, int], str]:
    """(samples before, sample, nth time in this batch) -> digest of everything that belongs to the sample."""
    found: dict[tuple[int, int, int], str] = {}
    for batch in batches:
        assert batch.tokens_BL is not None
        padded = np.zeros((len(batch.sample_ids), 16), dtype=np.int64)
        padded[:, : batch.tokens_BL.shape[1]] = batch.tokens_BL.numpy()
        for row, sample in enumerate(batch.sample_ids.tolist()):
            parts = [view[row].numpy().tobytes() for view in batch.views]
            digest = hashlib.sha256(b"".join([*parts, padded[row].tobytes()])).hexdigest()
            nth = sum(key[:2] == (batch.samples, sample) for key in found)
            found[batch.samples, sample, nth] = digest
    return found


def test_a_batch_by_hand(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest, base = make_dataset(COUNTS), make_config(tmp_path)
    config = replace(base, data=replace(base.data, augment="reference"))
    source = open_source(config, 1, 2)
    assert isinstance(source, SampleReader)
    with Loader(config, source, VIEWS) as loader:
        (batch,) = loader.batches(24, 32)  # the first epoch ends in it
        expected_ids, epochs = source.plan.batch(24, 1, 2), source.plan.epochs(24, 1, 2)
    assert (batch.samples, len(expected_ids)) == (24, 4)
    assert set(source.plan.epochs(24).tolist()) == {0, 1}
    np.testing.assert_array_equal(batch.sample_ids.numpy(), expected_ids)
    np.testing.assert_array_equal(batch.planned_ids, expected_ids)
    np.testing.assert_array_equal(batch.epochs, epochs)
    captions, names = [], ("title", "description")
    for row, (sample, epoch) in enumerate(zip(expected_ids.tolist(), epochs.tolist(), strict=True)):
        shard = int(np.searchsorted(np.cumsum(COUNTS), sample, side="right"))
        index = read_index(str(tmp_path), manifest.shards[shard])
        i = sample - sum(COUNTS[:shard])
        start = int(index.image_offset[i])
        data = (tmp_path / f"{shard:05d}.tar").read_bytes()[start : start + int(index.image_size[i])]
        image = decode_rgb(data)
        drawn = uniforms(1 + 53 * len(VIEWS), seed=5, purpose=Purpose.SAMPLE, where=(0, sample, epoch)).tolist()
        for number, kind in enumerate(VIEWS):
            numbers = drawn[1 + 53 * number : 1 + 53 * (number + 1)]
            view = apply(image, draw_params(kind, *image.size, numbers), 24)
            np.testing.assert_array_equal(batch.views[number][row].permute(1, 2, 0).numpy(), view)
        usable = [f"{'' if name == 'title' else 'a longer '}{name} of {sample}"
                  for name, every in zip(names, (3, 4), strict=True) if sample % every]  # fmt: skip
        usable = usable or [f"text of {sample}"]
        captions.append(usable[int(drawn[0] * len(usable))])
    tokens = Tokenizer(16)(captions)
    assert batch.tokens_BL is not None
    assert batch.tokens_BL.shape[1] == (tokens != 0).sum(axis=1).max()
    np.testing.assert_array_equal(batch.tokens_BL.numpy(), tokens[:, : batch.tokens_BL.shape[1]])
    assert batch.tokens_BL.is_contiguous()
    assert all(view.is_contiguous() and view.dtype == torch.uint8 for view in batch.views)


def test_batches_do_not_depend_on_threads_ranks_or_where_a_run_resumes(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset(COUNTS)
    expected = content(load(make_config(tmp_path), 0, 8))
    assert len(expected) == 8 * BATCH
    for world_size in (1, 2, 4, 8):
        for workers, prefetch in ((0, 0), (1, 0), (2, 1), (4, 5)):
            config = make_config(tmp_path, workers=workers, prefetch=prefetch)
            parts: dict[tuple[int, int, int], str] = {}
            for rank in range(world_size):
                parts |= content(load(config, 0, 8, rank, world_size))
            assert parts == expected
    # Resumed in the middle of the second epoch, in another layout.
    resumed: dict[tuple[int, int, int], str] = {}
    for rank in range(2):
        resumed |= content(load(make_config(tmp_path, workers=1), 4, 8, rank, 2))
    assert resumed == {key: value for key, value in expected.items() if key[0] >= 4 * BATCH}


def test_data_sets_mix_by_weight(make_dataset: MakeDataset, tmp_path: Path) -> None:
    for i, counts in enumerate(((20, 20), (9, 3, 12))):
        make_dataset(counts, folder=tmp_path / str(i))
    base = make_config(tmp_path)
    data = replace(base.data, manifest=(str(tmp_path / "0"), str(tmp_path / "1")), weights=(3, 1))
    config = replace(base, data=data)
    batches = load(config, 0, 10)
    assert [sum(i >= 40 for i in batch.sample_ids.tolist()) for batch in batches] == [2] * 10
    found = content(batches)
    parts: dict[tuple[int, int, int], str] = {}
    for rank in range(4):
        parts |= content(load(config, 0, 10, rank, 4))
    assert parts == found
    # Twenty draws of the second set's 24 samples, sixty of the first's 40.
    times = Counter(i for batch in batches for i in batch.sample_ids.tolist())
    assert all(times[i] <= 1 for i in range(40, 64))
    assert sorted(times[i] for i in range(40)) == [1] * 20 + [2] * 20


def test_an_epoch_has_every_sample_once_and_views_differ_between_epochs(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset((8, 8))
    batches = load(make_config(tmp_path), 0, 4)
    by_sample: dict[int, list[str]] = {}
    for (_, sample, _), digest in content(batches).items():
        by_sample.setdefault(sample, []).append(digest)
    assert sorted(by_sample) == list(range(16))
    assert all(len(set(digests)) == 2 for digests in by_sample.values())
    assert not torch.equal(batches[0].views[1], batches[0].views[2])


def test_one_loader_serves_several_ranges(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset(COUNTS)
    config = make_config(tmp_path)
    expected = content(load(config, 0, 6))
    with open_loader(config) as loader:
        abandoned = loader.batches(0, 48)
        next(abandoned)
        abandoned.close()  # type: ignore[attr-defined]
        found = content([*loader.batches(0, 16), *loader.batches(16, 48)])
        assert list(loader.batches(48, 48)) == []
    assert found == expected


def test_without_text(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset(COUNTS)
    config = make_config(tmp_path)
    with Loader(config, open_source(config, 0, 1), ("ssl", "ssl"), needs_text=False) as loader:
        (batch,) = loader.batches(0, BATCH)
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
    clean = load(make_config(tmp_path, max_damaged=1), 0, 1)
    damage(tmp_path, manifest, 2, 2)
    config = make_config(tmp_path, max_damaged=2)
    source = open_source(config, 0, 1)
    assert isinstance(source, SampleReader)
    with Loader(config, source, VIEWS) as loader:
        batches = list(loader.batches(0, 12 * BATCH))
        assert len(loader.damaged) == 2
    assert [tuple(batch.views[0].shape) for batch in clean + batches] == [(8, 3, 24, 24)] * 13
    lines = [record.getMessage() for record in caplog.records if "replaces it" in record.getMessage()]
    assert any("00002.tar: sample 000012 at byte" in line and "crc32" in line for line in lines)
    assert any("00002.tar: sample 000020 at byte" in line and "cannot be decoded" in line for line in lines)
    replaced = 0
    for batch in batches:
        planned, used = source.plan.batch(batch.samples).tolist(), batch.sample_ids.tolist()
        assert batch.planned_ids.tolist() == planned
        places = [(run.key, number) for run in source.plan.runs(batch.samples) for number in range(run.start, run.stop)]
        for place, (key, number) in enumerate(places):
            window = source.plan.window(key).tolist()
            assert window[number] == planned[place]
            good = [sample for sample in window[number:] + window[:number] if sample not in {12, 20}]
            assert used[place] == good[0]
            replaced += used[place] != planned[place]
    assert replaced >= 4
    # The same on other layouts, replacements included.
    parts: dict[tuple[int, int, int], str] = {}
    for rank in range(4):
        parts |= content(load(make_config(tmp_path, max_damaged=2, workers=1), 0, 12, rank, 4))
    assert parts == content(batches)
    with pytest.raises(ShardError, match=r"00002.tar: sample 0000(12|20) at byte \d+ is damaged: .*allows 1"):
        load(make_config(tmp_path, max_damaged=1), 0, 12)


def test_a_window_without_a_good_sample_stops_the_run(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset((30,), images=dict.fromkeys(range(30), b"nothing"))
    with pytest.raises(ShardError, match=r"all \d samples of a window are damaged, from sample"):
        load(make_config(tmp_path, max_damaged=1000), 0, 1)


def test_settings_that_cannot_work(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset((8, 8))
    config = make_config(tmp_path)
    with pytest.raises(ConfigError, match="world size is 3"):
        open_loader(config, 0, 3)
    mixed = replace(config.data, manifest=(str(tmp_path), "s3://bucket/{00..10}.tar"))
    with pytest.raises(ConfigError, match=r"slip index 's3://bucket/\{00\.\.10\}\.tar'"):
        open_loader(replace(config, data=mixed))
    with pytest.raises(ConfigError, match="2 numbers for 1 manifests"):
        open_loader(replace(config, data=replace(config.data, weights=(1, 2))))
