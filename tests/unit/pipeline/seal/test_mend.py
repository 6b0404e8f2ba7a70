from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError, ManifestError, ShardError, StoreError
from pipeline.manifest import Manifest, read_index
from pipeline.records import Reason
from pipeline.seal import mend
from pipeline.seal.verify import verify
from tests.fetched_units import Source, build_units, contents, seal_all, selection_row, without_select, write_unit

Sealed = tuple[BuildConfig, Path, Manifest, Path]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """What is asked when pictures are lost."""
    without_select(monkeypatch)
    return Source().install(monkeypatch)


@pytest.fixture
def sealed(tmp_path: Path, source: Source) -> Sealed:
    """Two shards of six samples."""
    config, work = build_units(tmp_path)
    return config, work, seal_all(config, work), tmp_path / "out"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _picture_of_one_sample(out: Path) -> None:
    flip(out / "00001.tar", 800)


def _caption_of_one_sample(out: Path) -> None:
    data = (out / "00001.tar").read_bytes()
    flip(out / "00001.tar", data.index(b"A description"))


def _cut(out: Path) -> None:
    data = (out / "00000.tar").read_bytes()
    (out / "00000.tar").write_bytes(data[: len(data) // 2])


def _swapped(out: Path) -> None:
    first, second = (out / "00000.tar").read_bytes(), (out / "00001.tar").read_bytes()
    (out / "00000.tar").write_bytes(second)
    (out / "00001.tar").write_bytes(first)


def _shards_missing(out: Path) -> None:
    (out / "00000.tar").unlink()
    (out / "00001.tar").unlink()


def _everything_else_missing(out: Path) -> None:
    for path in out.iterdir():
        if path.suffix != ".tar" and path.name != "manifest.json":
            path.unlink()


def _index_and_idx_damaged(out: Path) -> None:
    flip(out / "00001.parquet", 500)
    flip(out / "00001.idx", 5)


def _idx_missing(out: Path) -> None:
    (out / "00000.idx").unlink()


def _end_damaged(out: Path) -> None:
    flip(out / "00000.tar", (out / "00000.tar").stat().st_size - 1)


DAMAGES: dict[Callable[[Path], None], int] = {
    _picture_of_one_sample: 1,
    _caption_of_one_sample: 0,
    _cut: 2,
    _swapped: 12,
    _shards_missing: 12,
    _everything_else_missing: 0,
    _index_and_idx_damaged: 0,
    _idx_missing: 0,
    _end_damaged: 0,
}
"""How many pictures must be fetched again after each damage."""


@pytest.mark.parametrize("has_work", [True, False])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_repaired_bytes_are_those_of_the_build(
    sealed: Sealed, source: Source, damage: Callable[[Path], None], has_work: bool
) -> None:
    config, work, manifest, out = sealed
    before = contents(out)
    damage(out)
    assert contents(out) != before
    if not has_work:
        shutil.rmtree(work)
        work.mkdir()
    assert mend.repair(config, work, proxy=None) == manifest
    assert contents(out) == before
    assert len(source.asked) == DAMAGES[damage]
    assert not (work / "repair").exists()
    assert not list(work.glob("fetched/*again*"))
    assert mend.repair(config, work, proxy=None) == manifest


def test_shard_and_index_both_damaged(sealed: Sealed, source: Source) -> None:
    config, work, _, out = sealed
    before = contents(out)
    _picture_of_one_sample(out)
    _index_and_idx_damaged(out)
    broken = contents(out)
    gone = work.with_name("nothing")
    gone.mkdir()
    with pytest.raises(ShardError, match=r"00001\.tar: shard and index are both damaged and .*/nothing knows nothing"):
        mend.repair(config, gone, proxy=None)
    assert contents(out) == broken
    mend.repair(config, work, proxy=None)
    assert contents(out) == before
    assert len(source.asked) == 1


def test_what_can_be_mended_is_before_the_rest_is_named(sealed: Sealed, source: Source) -> None:
    config, work, _, out = sealed
    before = contents(out)
    source.answers = {f"http://farm1.example/{i}.jpg": Reason.DEAD_LINK for i in range(4)}
    source.answers["http://farm1.example/4.jpg"] = b"another picture"
    _shards_missing(out)
    (out / "sizes.json").unlink()
    with pytest.raises(ShardError) as raised:
        mend.repair(config, work, proxy=None)
    message = str(raised.value)
    assert "00000.tar: cannot be rebuilt as it was, 4 of its pictures cannot be had again: 000 (dead_link x;" in message
    assert "676 (the source gives another picture; http://farm1.example/4.jpg)" in message
    assert "00001" not in message
    after = contents(out)
    assert after.keys() == before.keys() - {"00000.tar"}
    assert all(before[name] == data for name, data in after.items())
    source.answers = {}
    mend.repair(config, work, proxy=None)
    assert contents(out) == before


def test_a_lost_manifest(sealed: Sealed, tmp_path: Path) -> None:
    config, work, manifest, out = sealed
    before = contents(out)
    for content in (None, b"{", before["manifest.json"][:-2]):
        (out / "manifest.json").unlink()
        if content is not None:
            (out / "manifest.json").write_bytes(content)
        _idx_missing(out)
        assert mend.repair(config, work, proxy=None, data_name="openai") == manifest
        assert contents(out) == before
    (out / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"there is no manifest.*nothing holds no finished selection"):
        mend.repair(config, tmp_path / "nothing", proxy=None)


def test_settings_of_another_data_set(sealed: Sealed) -> None:
    config, work, _, out = sealed
    _picture_of_one_sample(out)
    other = BuildConfig(dataset="cc3m", metadata=("x",), output=config.output, processes=1)
    with pytest.raises(ConfigError, match="is a data set of --dataset yfcc, the settings say cc3m"):
        mend.repair(other, work, proxy=None)


def test_pictures_are_taken_as_the_data_set_took_them(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, work = build_units(tmp_path)
    built = replace(config, resize=200, min_side=20, max_aspect=float("inf"))
    seal_all(built, work)
    before = contents(tmp_path / "out")
    _picture_of_one_sample(tmp_path / "out")
    seen: list[BuildConfig] = []
    answer = source.fetch_again

    def spy(config: BuildConfig, *args: Any, **kwargs: Any) -> Any:
        seen.append(config)
        return answer(config, *args, **kwargs)

    monkeypatch.setattr("pipeline.seal.rebuild.fetch_again", spy)
    mend.repair(config, work, proxy=None)
    assert contents(tmp_path / "out") == before
    (used,) = seen
    assert (used.resize, used.min_side, used.max_aspect) == (200, 20, float("inf"))


def test_a_work_folder_of_another_build_changes_nothing(sealed: Sealed, tmp_path: Path) -> None:
    config, work, _, out = sealed
    _picture_of_one_sample(out)
    _index_and_idx_damaged(out)
    broken = contents(out)
    write_unit(work, 1, [selection_row(8 + i, title="another") for i in range(8)])
    with pytest.raises(ShardError, match=r"00001\.tar: rebuilt it has sha256 .*another build, nothing was changed"):
        mend.repair(config, work, proxy=None)
    assert contents(out) == broken


@pytest.mark.parametrize("moment", range(1, 9))
def test_killed_anywhere_and_run_again(sealed: Sealed, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    config, work, _, out = sealed
    before = contents(out)
    _shards_missing(out)
    _everything_else_missing(out)
    with monkeypatch.context() as patch:
        count = 0

        def dying(real: Callable[..., None]) -> Callable[..., None]:
            def call(*args: Any) -> None:
                nonlocal count
                count += 1
                if count == moment:
                    raise KeyboardInterrupt
                real(*args)

            return call

        for name in ("move_file", "write_bytes"):
            patch.setattr(store, name, dying(getattr(store, name)))
        with pytest.raises(KeyboardInterrupt):
            mend.repair(config, work, proxy=None)
    mend.repair(config, work, proxy=None)
    assert contents(out) == before


def test_a_store_that_refuses_ends_it(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    config, work, _, out = sealed
    _picture_of_one_sample(out)

    def refused(*_: Any) -> None:
        raise StoreError("no")

    monkeypatch.setattr(store, "move_file", refused)
    with pytest.raises(StoreError, match="no"):
        mend.repair(config, work, proxy=None)


def test_an_object_store(tmp_path: Path, source: Source) -> None:
    config, work = build_units(tmp_path, f"memory://{uuid.uuid4().hex}/out")
    shard = seal_all(config, work).shards[1]
    url = store.join(config.output, shard.name)
    before = store.read_bytes(url)
    index = read_index(config.output, shard)
    data = bytearray(before)
    data[int(index.image_offset[3]) + 5] ^= 1
    store.write_bytes(url, bytes(data))
    store.delete(store.join(config.output, shard.index))
    mend.repair(config, work, proxy=None)
    assert store.read_bytes(url) == before
    assert len(source.asked) == 1
    assert verify(config) == []
