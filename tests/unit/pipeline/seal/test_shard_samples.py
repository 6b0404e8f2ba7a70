from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ShardError
from pipeline.seal.shard_samples import samples_of_index, samples_of_tar, samples_of_unit
from tests.fetched_units import build_units, picture, seal_all, without_select


@pytest.fixture(autouse=True)
def _finished_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    without_select(monkeypatch)


def test_unit_index_and_tar_say_the_same(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    manifest = seal_all(config, work)
    for unit, shard in enumerate(manifest.shards):
        of_unit = samples_of_unit(work, unit)
        samples = [sample for sample, _ in of_unit]
        data = (tmp_path / "out" / shard.index).read_bytes()
        assert samples_of_index(data, "u") == samples
        assert samples_of_tar(f"{config.output}/{shard.name}", shard.num_bytes) == samples
        assert [sample.key for sample in samples] == sorted(sample.key for sample in samples)
        for sample, fetched in of_unit:
            own = picture(8 * unit + fetched.position)
            assert (sample.image_size, sample.image_sha256) == (len(own), hashlib.sha256(own).hexdigest())
            assert fetched.member == f"{fetched.position:08d}.{sample.image_ext}"


def test_an_index_that_is_too_poor(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    shard = seal_all(config, work).shards[0]
    poor = io.BytesIO()
    pq.write_table(pq.read_table(f"{config.output}/{shard.index}").drop_columns(["image_sha256", "user"]), poor)
    with pytest.raises(ShardError, match="u: column image_sha256, user is missing"):
        samples_of_index(poor.getvalue(), "u")
    with pytest.raises(ShardError, match="u: not an index"):
        samples_of_index(b"PAR1", "u")


@pytest.mark.parametrize(
    "members",
    [
        {"a.json": b"{}"},
        {"a.jpg": b"x", "a.json": b"{"},
        {"a.jpg": b"x", "a.json": b"[]"},
        {"a.jpg": b"x", "a.json": b'{"key": "a"}'},
        {"b.jpg": b"x", "a.json": b'{"key": "a"}'},
    ],
)
def test_a_tar_of_somebody_else(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(ShardError, match=r"a\.tar: not a shard of ours"):
        samples_of_tar(str(path), path.stat().st_size)
