from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import ShardError, StoreError
from pipeline.manifest import Manifest, Shard, ShardIndex, read_index
from slip.data.cache import BlockCache
from slip.data.plan import Plan, make_plan
from slip.data.samples import DamagedSample, RawSample
from slip.data.sets import Mix, open_mix
from slip.data.stream import SampleReader

MakeDataset = Callable[..., Manifest]
COUNTS = (7, 1, 12, 4)


def opened(folder: Path, lanes: int = 2, window: int = 5, batch: int = 4) -> tuple[Mix, Plan]:
    mix = open_mix([str(folder)])
    return mix, make_plan(mix, seed=1, global_batch=batch, lanes=lanes, shuffle_window=window)


def read_all(
    folder: Path, *, stop: int = 24, cache: BlockCache | None = None, **layout: int
) -> list[RawSample | DamagedSample]:
    """The samples of an epoch (of 24, with the shards used here), in the order of use."""
    mix, plan = opened(folder, **layout)
    reader = SampleReader(mix, plan, connections=2, cache=cache)
    found: list[RawSample | DamagedSample] = []
    try:
        reader.start(0, stop)
        for samples in range(0, stop, plan.global_batch):
            for slot in reader.next_batch():
                sample = slot.window.result(60)[slot.number]
                assert sample.sample_id == slot.sample_id
                found.append(sample)
            reader.release(samples + plan.global_batch)
        assert not reader._held or stop % plan.num_samples
    finally:
        reader.close()
    return found


def test_samples_are_what_tarfile_reads(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset((7, 1, 12, 4))
    members: list[dict[str, bytes]] = []
    for shard in manifest.shards:
        with tarfile.open(tmp_path / shard.name) as tar:
            files = {m.name: (tar.extractfile(m) or tar).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        keys = sorted({name.split(".")[0] for name in files})
        extensions = ("jpg", "json", "txt")
        members += [{"key": key.encode()} | {ext: files[f"{key}.{ext}"] for ext in extensions} for key in keys]
    samples = read_all(tmp_path)
    assert sorted(sample.sample_id for sample in samples) == list(range(24))
    for sample in samples:
        assert isinstance(sample, RawSample)
        expected = members[sample.sample_id]
        content = json.loads(expected["json"])
        assert sample.image == expected["jpg"]
        assert sample.key.encode() == expected["key"]
        assert sample.text.encode() == expected["txt"]
        assert sample.json == expected["json"]
        usable = [content[name] for name in ("title", "description") if content[f"{name}_usable"]]
        assert list(sample.captions) == (usable or [sample.text])


def test_one_ranged_read_a_piece_and_one_index_a_shard(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset((100,))
    ranges: list[int] = []
    indexes: list[str] = []
    real_into, real_index = store.read_into, read_index

    def read_into(url: str, start: int, into: memoryview, *, watch: store.Watch | None = None) -> None:
        ranges.append(len(into))
        real_into(url, start, into, watch=watch)

    def count_index(base_url: str, shard: Shard) -> ShardIndex:
        indexes.append(shard.name)
        return real_index(base_url, shard)

    monkeypatch.setattr(store, "read_into", read_into)
    monkeypatch.setattr("slip.data.indexes.read_index", count_index)
    assert len(read_all(tmp_path, stop=100, lanes=1, window=20)) == 100
    assert indexes == ["00000.tar"]
    assert 5 <= len(ranges) <= 6  # five windows, one of which goes around the end of the ring


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_damaged_byte_is_named(make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_dataset(COUNTS)
    index = read_index(str(tmp_path), manifest.shards[2])
    flip_byte(tmp_path / "00002.tar", int(index.image_offset[3]) + 100)
    damaged = [sample for sample in read_all(tmp_path, window=100) if isinstance(sample, DamagedSample)]
    assert [(d.sample_id, d.shard, d.key, d.offset) for d in damaged] == [
        (11, str(tmp_path / "00002.tar"), "000011", int(index.offset[3]))
    ]
    assert index.crc32 is not None
    assert f"the index says {index.crc32[3]:08x}" in damaged[0].detail
    assert "reading sample 000011 at byte" in caplog.text


def corrupt_first_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flip a bit in what is read first; the URLs that were hit."""
    real = store.read_into
    broken: list[str] = []

    def read_into(url: str, start: int, into: memoryview, *, watch: store.Watch | None = None) -> None:
        real(url, start, into, watch=watch)
        if not broken:
            broken.append(url)
            into[len(into) // 2] ^= 1

    monkeypatch.setattr(store, "read_into", read_into)
    return broken


def test_a_byte_damaged_on_the_way_heals(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset((24,))
    broken = corrupt_first_read(monkeypatch)
    samples = read_all(tmp_path)
    assert broken
    assert all(isinstance(sample, RawSample) for sample in samples)


def test_a_byte_damaged_on_the_way_does_not_stay_in_the_cache(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset((24,))
    expected = read_all(tmp_path)
    broken = corrupt_first_read(monkeypatch)
    caches = [BlockCache(tmp_path / "cache", 10**8, block_bytes=4096) for _ in range(3)]
    for cache in caches:
        assert read_all(tmp_path, cache=cache) == expected
    assert broken
    # Only what was dropped is asked for again.
    assert caches[0].hit_bytes < caches[0].miss_bytes
    assert 0 < caches[1].miss_bytes <= 2 * 4096
    assert caches[2].miss_bytes == 0


def test_read_ahead_is_bounded_by_bytes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset((400,))
    mix, plan = opened(tmp_path, lanes=2, window=10)
    mean = manifest.num_bytes / 400
    for budget, most in ((0, 0), (25 * mean, 45 * mean)):
        reader = SampleReader(mix, plan, connections=1, prefetch_bytes=int(budget))
        reader.start(0, 400)
        for samples in range(0, 200, 4):
            reader.next_batch()
            assert min(budget, most) <= sum(reader._ahead.values()) <= most
            reader.release(samples)
            # The windows in use, those of the batch before, and what is ahead.
            assert len(reader._held) <= 4 + most / mean / 10 + 1
        reader.close()


def test_a_rank_reads_only_its_lanes_and_resumes_without_the_past(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset((400,))
    mix, plan = opened(tmp_path, lanes=4, window=10, batch=8)
    reader = SampleReader(mix, plan, rank=1, world_size=2, prefetch_bytes=0)
    reader.start(200, 208)
    slots = reader.next_batch()
    assert [slot.sample_id for slot in slots] == plan.batch(200, 1, 2).tolist()
    assert {key.lane for key in reader._held} == {2, 3}
    assert len(reader._held) == len({run.key for run in plan.runs(200, 1, 2)})
    reader.close()


def test_what_a_stall_waits_for(make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset((24,))
    real = store.read_into
    reached, go_on = threading.Event(), threading.Event()

    def read_into(url: str, start: int, into: memoryview, *, watch: store.Watch | None = None) -> None:
        assert watch is not None
        watch(1_000_000, 3)
        reached.set()
        assert go_on.wait(60)
        real(url, start, into)

    monkeypatch.setattr(store, "read_into", read_into)
    reader = SampleReader(*opened(tmp_path, lanes=1), connections=1)
    assert reader.waiting_for() == ""
    reader.start(0, 4)
    reader.next_batch()
    assert reached.wait(60)
    told = reader.waiting_for()
    go_on.set()
    reader.close()
    assert f"{tmp_path}/00000.tar from byte" in told
    assert "1.0 of 0.0 MB, attempt 3, nothing for 0 s (thread read_0, lane 0)" in told


def test_missing_and_wrong_files(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset(COUNTS)
    flip_byte(tmp_path / "00002.parquet", 30)
    with pytest.raises(ShardError, match=r"00002\.parquet"):
        read_all(tmp_path)
    make_dataset(COUNTS)
    (tmp_path / "00002.tar").unlink()
    with pytest.raises(StoreError, match=r"00002\.tar"):
        read_all(tmp_path)
