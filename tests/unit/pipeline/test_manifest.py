from __future__ import annotations

import hashlib
import io
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import manifest as m
from pipeline import store
from pipeline.errors import ManifestError, ShardError, StoreError

SHA = "0123456789abcdef" * 4


def shard(number: int, num_samples: int = 3, num_bytes: int = 10_240) -> m.Shard:
    return m.Shard(
        name=f"{number:05d}.tar",
        num_samples=num_samples,
        num_bytes=num_bytes,
        sha256=SHA,
        index=f"{number:05d}.parquet",
        index_sha256=SHA,
    )


def manifest(*shards: m.Shard) -> m.Manifest:
    kept = sum(s.num_samples for s in shards)
    return m.Manifest(
        name="yfcc15m-sample",
        variant="sample",
        num_samples=kept,
        num_bytes=sum(s.num_bytes for s in shards),
        funnel={"rows": kept + 4, "kept": kept, "rejected": {"video": 1, "dead_link": 3}},
        settings={"source": "flickr", "min_side": 16, "note": "Zürich 東京"},
        shards=shards,
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**12)), min_size=1, max_size=20))
def test_round_trip(sizes: list[tuple[int, int]]) -> None:
    before = manifest(*(shard(i, *size) for i, size in enumerate(sizes)))
    after = m.Manifest.from_json(before.to_json(), "u")
    assert after == before
    assert after.to_json() == before.to_json()
    assert after.sha256 == hashlib.sha256(before.to_json()).hexdigest()


def test_tars_that_lie_elsewhere() -> None:
    beside, elsewhere = manifest(shard(0)), replace(manifest(shard(0)), shards_url="s3://theirs/cc12m/")
    assert (beside.version, elsewhere.version) == (1, 2)
    assert b"shards_url" not in beside.to_json()
    assert m.Manifest.from_json(beside.to_json(), "u") == beside
    assert m.Manifest.from_json(elsewhere.to_json(), "u") == elsewhere
    assert json.loads(elsewhere.to_json()) == json.loads(beside.to_json()) | {
        "version": 2,
        "shards_url": "s3://theirs/cc12m/",
    }
    for base in ("s3://ours/x", "s3://ours/x/", "s3://ours/x/manifest.json"):
        assert m.shard_url(beside, base, beside.shards[0]) == "s3://ours/x/00000.tar"
        assert m.shard_url(elsewhere, base, elsewhere.shards[0]) == "s3://theirs/cc12m/00000.tar"


def test_a_name_outside_the_folder_of_the_tars() -> None:
    content = json.loads(replace(manifest(shard(0)), shards_url="/tars").to_json())
    content["shards"][0]["name"] = "../00000.tar"
    with pytest.raises(ManifestError, match="expected a name relative to shards_url"):
        m.Manifest.from_json(json.dumps(content).encode(), "u")
    content["shards"][0] |= {"name": "00000.tar", "index": "/00000.parquet"}
    with pytest.raises(ManifestError, match="expected a name relative to the manifest"):
        m.Manifest.from_json(json.dumps(content).encode(), "u")


def test_bytes_are_canonical() -> None:
    whole = manifest(shard(0), shard(1))
    shuffled = replace(whole, settings=dict(reversed(whole.settings.items())))
    assert shuffled.to_json() == whole.to_json()
    assert whole.to_json() == (
        json.dumps(json.loads(whole.to_json()), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    )


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(manifest(shard(0), shard(1)).to_json()) | changes).encode()


def changed_shard(**changes: Any) -> bytes:
    content = json.loads(manifest(shard(0), shard(1)).to_json())
    content["shards"][1] |= changes
    return json.dumps(content).encode()


def changed_funnel(**changes: Any) -> bytes:
    content = json.loads(manifest(shard(0), shard(1)).to_json())
    content["funnel"] |= changes
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON cannot be read"),
        (b"\xff\xfe", "JSON cannot be read"),
        (b"<html>", "JSON cannot be read"),
        (b"[]", "found a JSON list"),
        (b"{}", "field version is None"),
        (changed(version=3), "version 3 is newer than this program knows"),
        (changed(shards_url="/tars"), "unknown field shards_url"),
        (changed(version=2), "missing field shards_url"),
        (changed(version=2, shards_url=None), "field shards_url is None"),
        (changed(version=2, shards_url=""), "field shards_url is ''"),
        (changed(version=2, shards_url="tars"), "field shards_url is 'tars', expected an absolute path or a URL"),
        (changed(version="1"), "field version is '1'"),
        (changed(version=True), "field version is True"),
        (changed(version=0), "field version is 0"),
        (changed(extra=1), "unknown field extra"),
        (b'{"version": 1}', "missing field funnel, name, num_bytes"),
        (changed(name=""), "field name is ''"),
        (changed(variant=3), "field variant is 3"),
        (changed(num_samples=7), "field num_samples is 7, its shards add up to 6"),
        (changed(num_samples=6.0), "field num_samples is 6.0"),
        (changed(num_bytes=1), "field num_bytes is 1, its shards add up to 20480"),
        (changed(num_bytes=-1), "field num_bytes is -1"),
        (changed(shards={}), "field shards is {}"),
        (changed(shards=[], num_samples=0, num_bytes=0), "field shards is empty"),
        (changed(shards=["00000.tar"]), r"field shards\[0\] is '00000.tar'"),
        (changed(settings=[]), r"field settings is \[\]"),
        (changed(funnel=[]), r"field funnel is \[\]"),
        (changed_shard(name="00000.tar"), "names 00000.tar twice"),
        (changed_shard(index="00000.parquet"), "names 00000.parquet twice"),
        (changed_shard(name="/etc/passwd"), r"shards\[1\]\.name is '/etc/passwd'"),
        (changed_shard(index="../x.parquet"), r"shards\[1\]\.index is '../x.parquet'"),
        (changed_shard(name="s3://b/k"), r"shards\[1\]\.name is 's3://b/k'"),
        (changed_shard(sha256=SHA.upper()), r"shards\[1\]\.sha256 is .*64 lower-case hex digits"),
        (changed_shard(index_sha256=SHA[1:]), r"shards\[1\]\.index_sha256 is .*64 lower-case hex digits"),
        (changed_shard(sha256=None), r"shards\[1\]\.sha256 is None"),
        (changed_shard(num_samples=0), r"shards\[1\]\.num_samples is 0"),
        (changed_shard(num_samples="3"), r"shards\[1\]\.num_samples is '3'"),
        (changed_shard(size=1), r"unknown field shards\[1\]\.size"),
        (changed_funnel(rows=9), "funnel.rows is 9, kept and rejected add up to 10"),
        (changed_funnel(kept=5, rows=9), "funnel.kept is 5, num_samples is 6"),
        (changed_funnel(rejected=[]), r"field funnel.rejected is \[\]"),
        (changed_funnel(rejected={"video": -1}), "funnel.rejected.video is -1"),
        (changed_funnel(lost=0), "unknown field funnel.lost"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=rf"^s3://b/manifest\.json: .*{message}"):
        m.Manifest.from_json(data, "s3://b/manifest.json")


def test_written_and_loaded_by_folder_or_by_name(tmp_path: Path) -> None:
    written = manifest(shard(0))
    m.write_manifest(written, str(tmp_path))
    path = tmp_path / "manifest.json"
    assert m.load_manifest(str(tmp_path)) == m.load_manifest(str(path)) == m.load_manifest(f"{tmp_path}/") == written
    before = path.stat().st_mtime_ns
    m.write_manifest(written, str(tmp_path))
    assert path.stat().st_mtime_ns == before
    m.write_manifest(manifest(shard(0), shard(1)), str(tmp_path))
    assert len(m.load_manifest(str(tmp_path)).shards) == 2


def test_a_wrong_manifest_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="add up to 3"):
        m.write_manifest(replace(manifest(shard(0)), num_samples=4), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_no_manifest_says_what_that_means(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: there is no manifest; it is written last"):
        m.load_manifest(str(tmp_path))


def index_rows(num_samples: int = 3) -> list[dict[str, Any]]:
    """Samples of 3 members, one block of header and one of data each."""
    rows = []
    for i in range(num_samples):
        row: dict[str, Any] = {"key": f"k{i}", "offset": 3072 * i, "size": 3072, "image_ext": "jpg", "sha256": SHA}
        row["crc32"] = 7
        for j, member in enumerate(("image", "json", "txt")):
            row |= {f"{member}_offset": 3072 * i + 1024 * j + 512, f"{member}_size": 500}
        rows.append(row)
    return rows


def write_index(tmp_path: Path, rows: list[dict[str, Any]], num_bytes: int = 10_240) -> m.Shard:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=m.INDEX_SCHEMA), sink)
    (tmp_path / "00000.parquet").write_bytes(sink.getvalue())
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    return replace(shard(0, 3, num_bytes), index_sha256=digest)


def test_read_index(tmp_path: Path) -> None:
    rows = index_rows()
    rows[1] |= {"image_ext": "png", "crc32": 2**32 - 1}
    entry = write_index(tmp_path, rows)
    for base in (str(tmp_path), str(tmp_path / "manifest.json")):
        index = m.read_index(base, entry)
        assert index.keys.to_pylist() == ["k0", "k1", "k2"]
        assert [index.key(row) for row in range(3)] == ["k0", "k1", "k2"]
        assert len(index) == 3
        assert index.offset.tolist() == [0, 3072, 6144]
        assert index.json_offset.tolist() == [1536, 4608, 7680]
        assert index.txt_size.tolist() == [500, 500, 500]
        assert index.crc32 is not None
        assert index.crc32.tolist() == [7, 2**32 - 1, 7]


def test_an_index_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="4 samples, the manifest says 3"):
        m.read_index(str(tmp_path), write_index(tmp_path, index_rows(4)))


def test_a_damaged_or_missing_index(tmp_path: Path) -> None:
    entry = write_index(tmp_path, index_rows())
    path = tmp_path / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"00000\.parquet: sha256 is .*, the manifest says"):
        m.read_index(str(tmp_path), entry)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ShardError, match="not an index"):
        m.read_index(str(tmp_path), replace(entry, index_sha256=hashlib.sha256(b"PAR1 no").hexdigest()))
    path.unlink()
    with pytest.raises(StoreError, match=r"00000\.parquet: cannot read"):
        m.read_index(str(tmp_path), entry)


def test_an_index_without_a_column(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(index_rows(), schema=m.INDEX_SCHEMA).drop_columns(["txt_size"]), sink)
    store.write_bytes(str(tmp_path / "00000.parquet"), sink.getvalue())
    entry = replace(shard(0), index_sha256=hashlib.sha256(sink.getvalue()).hexdigest())
    with pytest.raises(ShardError, match="not an index"):
        m.read_index(str(tmp_path), entry)


def test_an_index_with_empty_cells(tmp_path: Path) -> None:
    rows = index_rows()
    rows[1]["txt_size"] = None
    with pytest.raises(ShardError, match="column txt_size has empty cells"):
        m.read_index(str(tmp_path), write_index(tmp_path, rows))


def test_what_is_damaged_on_its_way_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every third reading of a remote file has another byte in it."""
    entry = write_index(tmp_path, index_rows())
    kept = manifest(entry)
    files = {"index": (tmp_path / "00000.parquet").read_bytes(), "manifest": kept.to_json()}
    count = 0

    def faulty(url: str) -> bytes:
        nonlocal count
        count += 1
        data = files["index" if url.endswith(".parquet") else "manifest"]
        return data[:-9] + b"7" + data[-8:] if count % 3 == 1 else data

    monkeypatch.setattr(store, "read_bytes", faulty)
    monkeypatch.setattr(store, "exists", lambda url: True)
    assert m.load_manifest("s3://bucket/x").to_json() == files["manifest"]
    assert (count, "came differently" in caplog.text) == (3, True)
    assert len(m.read_index("s3://bucket/x", entry)) == 3
    assert (count, "reading it again" in caplog.text) == (5, True)
    monkeypatch.setattr(store, "read_bytes", lambda url: str(random.random()).encode())
    with pytest.raises(ManifestError, match=r"s3://bucket/x/manifest\.json: is different each time"):
        m.load_manifest("s3://bucket/x")
