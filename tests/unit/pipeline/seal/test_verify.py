from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import InputError, ManifestError
from pipeline.manifest import Manifest, Shard, read_index, write_manifest
from pipeline.seal import mend, verify
from pipeline.seal.verify import Damage
from tests.fetched_units import build_units, seal_all, without_select

Sealed = tuple[BuildConfig, Manifest, Path]


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sealed:
    """Two shards of six samples."""
    without_select(monkeypatch)
    config, work = build_units(tmp_path)
    return config, seal_all(config, work), tmp_path / "out"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def found(config: BuildConfig) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(damage.shard, damage.file, damage.samples) for damage in verify.verify(config)]


def places(config: BuildConfig, shard: Shard) -> list[tuple[str, int, int]]:
    """Key, offset and size of each sample."""
    index = read_index(config.output, shard)
    return list(zip(index.keys.to_pylist(), index.offset.tolist(), index.size.tolist(), strict=True))


def test_nothing_is_damaged(sealed: Sealed, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert verify.verify(sealed[0]) == []
    assert caplog.text == ""


def test_every_byte_of_every_sample_counts(sealed: Sealed) -> None:
    config, manifest, out = sealed
    shard = manifest.shards[1]
    whole = (out / shard.name).read_bytes()
    for key, offset, size in places(config, shard):
        for at in (offset, offset + 512, offset + size // 2, offset + size - 1):  # header, picture, text, padding
            flip(out / shard.name, at)
            assert found(config) == [(shard.name, shard.name, (key,))]
            (out / shard.name).write_bytes(whole)
    assert found(config) == []


def test_several_samples_are_named_in_order(sealed: Sealed, caplog: pytest.LogCaptureFixture) -> None:
    config, manifest, out = sealed
    shard = manifest.shards[0]
    at = places(config, shard)
    for number in (4, 1):
        flip(out / shard.name, at[number][1] + 700)
    assert found(config) == [(shard.name, shard.name, (at[1][0], at[4][0]))]
    assert f"00000.tar: 2 samples damaged ({at[1][0]}, {at[4][0]}): sha256 is" in caplog.text


def test_the_end_of_the_archive(sealed: Sealed) -> None:
    config, manifest, out = sealed
    flip(out / "00000.tar", manifest.shards[0].num_bytes - 1)
    (damage,) = verify.verify(config)
    assert damage.samples == ()
    assert "every sample is intact, the damage is at the end of the archive" in damage.what


def test_a_cut_shard(sealed: Sealed) -> None:
    config, manifest, out = sealed
    shard = manifest.shards[1]
    at = places(config, shard)
    whole = (out / shard.name).read_bytes()
    for number in (0, 3, 5):
        (out / shard.name).write_bytes(whole[: at[number][1] + 100])
        (damage,) = verify.verify(config)
        assert damage.samples == tuple(key for key, _, _ in at[number:])
        assert f"it has {at[number][1] + 100} bytes, the manifest says {len(whole)}" in damage.what
    (out / shard.name).write_bytes(b"")
    assert found(config) == [(shard.name, shard.name, tuple(key for key, _, _ in at))]
    (out / shard.name).write_bytes(whole + b"\0")
    (damage,) = verify.verify(config)
    assert (damage.samples, "every sample is intact" in damage.what) == ((), True)


def test_two_shards_swapped(sealed: Sealed) -> None:
    config, manifest, out = sealed
    first, second = ((out / shard.name).read_bytes() for shard in manifest.shards)
    (out / "00000.tar").write_bytes(second)
    (out / "00001.tar").write_bytes(first)
    expected = [(s.name, s.name, tuple(key for key, _, _ in places(config, s))) for s in manifest.shards]
    assert found(config) == expected


@pytest.mark.parametrize(
    ("name", "shard"),
    [
        ("00001.tar", "00001.tar"),
        ("00001.parquet", "00001.tar"),
        ("00001.idx", "00001.tar"),
        ("sizes.json", "sizes.json"),
        ("README.md", "README.md"),
    ],
)
def test_a_missing_or_damaged_file_is_named(sealed: Sealed, name: str, shard: str) -> None:
    config, _, out = sealed
    (out / name).unlink()
    assert verify.verify(config) == [Damage(shard=shard, file=name, samples=(), what="it is missing")]
    (out / name).write_bytes(b"something else")
    (damage,) = verify.verify(config)
    assert (damage.shard, damage.file) == (shard, name)


def test_a_damaged_index_is_not_believed(sealed: Sealed) -> None:
    config, manifest, out = sealed
    flip(out / "00000.parquet", 300)
    (damage,) = verify.verify(config)
    assert (damage.file, damage.samples) == ("00000.parquet", ())
    assert damage.what.startswith("sha256 is ")
    assert damage.what.endswith(manifest.shards[0].index_sha256)
    flip(out / "00000.tar", 600)
    tar, index = verify.verify(config)
    assert (tar.file, tar.samples, index.file) == ("00000.tar", (), "00000.parquet")
    assert "cannot be told without its index" in tar.what


def test_a_note_in_the_card_is_no_damage(sealed: Sealed) -> None:
    config, _, out = sealed
    with (out / "README.md").open("ab") as file:
        file.write(b"\nMade for the spring course.\n")
    assert found(config) == []


def test_strays_are_reported_and_no_damage(sealed: Sealed, caplog: pytest.LogCaptureFixture) -> None:
    config, _, out = sealed
    (out / "00007.tar").write_bytes(b"x")
    (out / "report.html").write_bytes(b"x")
    assert found(config) == []
    assert "00007.tar: the manifest does not name it" in caplog.text
    assert "report.html" not in caplog.text


def test_no_manifest(sealed: Sealed) -> None:
    config, _, out = sealed
    (out / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="there is no manifest"):
        verify.verify(config)


def test_several_processes_find_the_same(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    config, manifest, out = sealed
    monkeypatch.setattr(verify, "BYTES_PER_PROCESS", 1)
    for shard in manifest.shards:
        flip(out / shard.name, 700)
    alone = verify.verify(config)
    assert verify.verify(replace(config, processes=2)) == alone
    assert len(alone) == 2


def test_an_object_store_and_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_select(monkeypatch)
    monkeypatch.setattr("pipeline.seal.shard_reader.PIECE_BYTES", 1000)
    config, work = build_units(tmp_path, f"memory://{uuid.uuid4().hex}/out")
    shard = seal_all(config, work).shards[0]
    assert found(config) == []
    url = store.join(config.output, shard.name)
    data = bytearray(store.read_bytes(url))
    key, offset, _ = places(config, shard)[2]
    data[offset + 520] ^= 1
    store.write_bytes(url, bytes(data))
    with caplog.at_level(logging.INFO):
        assert found(config) == [(shard.name, shard.name, (key,))]
    assert "verify: 100 %" in caplog.text
    assert "1 of 2 shards damaged" in caplog.text


def test_tars_of_others_in_a_folder_of_their_own(sealed: Sealed, tmp_path: Path) -> None:
    config, manifest, out = sealed
    (tmp_path / "theirs").mkdir()
    for path in [*out.glob("*.tar"), *out.glob("*.idx"), out / "sizes.json", out / "README.md"]:
        path.rename(tmp_path / "theirs" / path.name)
    write_manifest(replace(manifest, shards_url=str(tmp_path / "theirs")), config.output)
    assert found(config) == []
    shard = manifest.shards[0]
    key, offset, _ = places(config, shard)[2]
    flip(tmp_path / "theirs" / shard.name, offset)
    assert found(config) == [(shard.name, shard.name, (key,))]
    with pytest.raises(InputError, match=r"its tars are those of others, in .*theirs; fetch damaged ones again"):
        mend.repair(config, tmp_path / "work", proxy=None)


def test_many_damaged_samples_are_counted() -> None:
    keys = tuple(f"{i:03d}" for i in range(25))
    text = str(Damage(shard="a.tar", file="a.tar", samples=keys, what="w"))
    assert text.startswith("a.tar: 25 samples damaged (000, 001,")
    assert text.endswith("019 and 5 more): w")
