from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import ConfigError, ShardError, StoreError
from pipeline.manifest import Manifest, Shard, ShardIndex, read_index
from slip.data.plan import Plan
from slip.data.stream import DamagedSample, RawSample, SampleReader, Window

MakeDataset = Callable[..., Manifest]
COUNTS = (7, 1, 12, 5)


def make_plan(manifest: Manifest, lanes: int = 2, window: int = 5) -> Plan:
    counts = tuple(shard.num_samples for shard in manifest.shards)
    return Plan(counts=counts, seed=1, global_batch=2 * lanes, lanes=lanes, shuffle_window=window)


def read_all(manifest: Manifest, folder: Path, plan: Plan) -> list[Window]:
    reader = SampleReader(manifest, str(folder), plan, num_lanes=plan.lanes, threads=2)
    windows = range((plan.lane_samples - 1) // plan.shuffle_window + 1)
    try:
        return [reader.window(0, lane, w, ahead=None).result(60) for lane in range(plan.lanes) for w in windows]
    finally:
        reader.close()


def test_samples_are_what_tarfile_reads(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset(COUNTS)
    plan = make_plan(manifest)
    members: list[dict[str, bytes]] = []
    for shard in manifest.shards:
        with tarfile.open(tmp_path / shard.name) as tar:
            files = {m.name: (tar.extractfile(m) or tar).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        keys = sorted({name.split(".")[0] for name in files})
        extensions = ("jpg", "json", "txt")
        members += [{"key": key.encode()} | {ext: files[f"{key}.{ext}"] for ext in extensions} for key in keys]
    samples = [sample for window in read_all(manifest, tmp_path, plan) for sample in window]
    assert len(samples) == 24
    for sample in samples:
        assert isinstance(sample, RawSample)
        expected = members[sample.sample_id]
        content = json.loads(expected["json"])
        assert sample.image == expected["jpg"]
        assert sample.image_ext == "jpg"
        assert sample.key.encode() == expected["key"]
        assert sample.text.encode() == expected["txt"]
        assert sample.title == (content["title"] if content["title_usable"] else "")
        assert sample.description == (content["description"] if content["description_usable"] else "")
        usable = [text for text in (sample.title, sample.description) if text]
        assert list(sample.captions) == (usable or [sample.text])


def test_one_ranged_read_a_piece_and_one_index_a_shard(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_dataset((100,))
    plan = make_plan(manifest, lanes=1, window=20)
    ranges: list[int] = []
    indexes: list[str] = []
    real_range, real_index = store.read_range, read_index

    def read_range(url: str, start: int, length: int) -> bytes:
        ranges.append(length)
        return real_range(url, start, length)

    def count_index(base_url: str, shard: Shard) -> ShardIndex:
        indexes.append(shard.name)
        return real_index(base_url, shard)

    monkeypatch.setattr(store, "read_range", read_range)
    monkeypatch.setattr("slip.data.stream.read_index", count_index)
    read_all(manifest, tmp_path, plan)
    assert indexes == ["00000.tar"]
    assert len(ranges) <= 6  # five windows, one of which goes around the end of the ring


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_damaged_byte_is_named(make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_dataset(COUNTS)
    index = read_index(str(tmp_path), manifest.shards[2])
    flip_byte(tmp_path / "00002.tar", int(index.image_offset[3]) + 100)
    plan = make_plan(manifest, window=100)
    samples = [sample for window in read_all(manifest, tmp_path, plan) for sample in window]
    damaged = [sample for sample in samples if isinstance(sample, DamagedSample)]
    assert [(d.sample_id, d.shard, d.key, d.offset) for d in damaged] == [
        (11, "00002.tar", "000011", int(index.offset[3]))
    ]
    assert f"the index says {index.sha256[3]}" in damaged[0].detail
    assert "reading it again" in caplog.text


def test_a_byte_damaged_on_the_way_heals(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_dataset(COUNTS)
    real = store.read_range
    broken: list[str] = []

    def read_range(url: str, start: int, length: int) -> bytes:
        data = bytearray(real(url, start, length))
        if not broken:
            broken.append(url)
            data[len(data) // 2] ^= 1
        return bytes(data)

    monkeypatch.setattr(store, "read_range", read_range)
    windows = read_all(manifest, tmp_path, make_plan(manifest))
    assert broken
    assert all(isinstance(sample, RawSample) for window in windows for sample in window)


def test_only_the_window_in_use_and_the_next_are_kept(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset((40,))
    plan = make_plan(manifest, lanes=1, window=5)
    reader = SampleReader(manifest, str(tmp_path), plan, num_lanes=1, threads=1)
    first = reader.window(0, 0, 0, ahead=(0, 1))
    assert reader.window(0, 0, 0, ahead=(0, 1)) is first
    second = reader.window(0, 0, 1, ahead=(0, 2))
    assert reader.window(0, 0, 1, ahead=(0, 2)) is second
    assert reader.window(0, 0, 0, ahead=None) is not first
    reader.close()


def test_missing_and_wrong_files(make_dataset: MakeDataset, tmp_path: Path) -> None:
    manifest = make_dataset(COUNTS)
    plan = make_plan(manifest)
    with pytest.raises(ConfigError, match="the manifest has"):
        SampleReader(make_dataset((3, 3), folder=tmp_path / "other"), str(tmp_path), plan, num_lanes=2)
    flip_byte(tmp_path / "00002.parquet", 30)
    with pytest.raises(ShardError, match=r"00002\.parquet"):
        read_all(manifest, tmp_path, plan)
    manifest = make_dataset(COUNTS)
    (tmp_path / "00002.tar").unlink()
    with pytest.raises(StoreError, match=r"00002\.tar"):
        read_all(manifest, tmp_path, plan)
