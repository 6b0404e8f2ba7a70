from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import InputError, ShardError
from pipeline.fetch import duplicates
from pipeline.fetch.fetched import again_path, again_tar, fetched_tar, read_outcomes
from pipeline.manifest import load_manifest
from pipeline.records import Reason
from pipeline.seal import retry, seal
from pipeline.seal.retry import retry_failed
from pipeline.seal.verify import verify
from tests.fetched_units import (
    FUNNEL,
    REJECTED,
    Source,
    build_units,
    contents,
    picture,
    seal_all,
    selection_row,
    without_select,
    write_unit,
)

HEALED = "http://farm1.example/3.jpg"
STILL_DOWN = "http://farm1.example/11.jpg"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Position 3 of unit 0 has healed, position 3 of unit 1 has not."""
    without_select(monkeypatch)
    return Source(answers={STILL_DOWN: Reason.SERVER_ERROR}).install(monkeypatch)


@pytest.fixture
def sealed(tmp_path: Path, source: Source) -> tuple[BuildConfig, Path]:
    """Two shards of six samples; in each unit one row was unreachable."""
    config, work = build_units(tmp_path)
    seal_all(config, work)
    return config, work


def never_failed(folder: Path) -> dict[str, bytes]:
    """The output of a build in which row 3 was there from the start and row 11 gave a server error."""
    config, work = build_units(folder)
    gone = {position: reason for position, reason in REJECTED.items() if position != 3}
    write_unit(work, 0, [selection_row(i) for i in range(8)], gone)
    write_unit(work, 1, [selection_row(8 + i) for i in range(8)], REJECTED | {3: Reason.SERVER_ERROR})
    seal_all(config, work)
    return contents(folder / "out")


def resume(config: BuildConfig, work: Path) -> None:
    """What the build does before it retries: seal what waits, describe the whole."""
    for unit in seal.units_to_build(config, work, range(3)):
        seal.seal_unit(config, work, unit)
    seal.finish(config, work, FUNNEL)


def test_only_what_can_heal_is_asked_and_only_its_shard_changes(
    sealed: tuple[BuildConfig, Path], source: Source, tmp_path: Path
) -> None:
    config, work = sealed
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("00001.*")}
    manifest = retry_failed(config, work, proxy=None)
    assert source.asked == [HEALED, STILL_DOWN]
    assert manifest == load_manifest(config.output)
    assert contents(tmp_path / "out") == never_failed(tmp_path / "other")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [shard.num_samples for shard in manifest.shards] == [7, 6]
    assert manifest.funnel["rejected"]["server_error"] == 1
    assert verify(config) == []
    assert sorted(path.name for path in (work / "fetched").iterdir()) == [f"0000{i}.parquet" for i in range(3)]
    assert not (work / "retry").exists()


def test_attempts_are_kept(sealed: tuple[BuildConfig, Path]) -> None:
    config, work = sealed
    retry_failed(config, work, proxy=None)
    first, second = (read_outcomes(work, unit).to_pylist()[3] for unit in (0, 1))
    assert [attempt["reason"] for attempt in first["attempts"]] == ["unreachable", ""]
    assert [attempt["reason"] for attempt in second["attempts"]] == ["unreachable", "server_error"]
    assert (first["reason"], second["reason"]) == ("", "server_error")
    retry_failed(config, work, proxy=None)
    second = read_outcomes(work, 1).to_pylist()[3]
    assert [attempt["reason"] for attempt in second["attempts"]] == ["unreachable", "server_error", "server_error"]


def test_a_unit_that_had_no_shard_gets_one(tmp_path: Path, source: Source) -> None:
    config, work = build_units(tmp_path)
    write_unit(work, 2, [selection_row(16 + i) for i in range(2)], dict.fromkeys(range(2), Reason.TRUNCATED))
    assert len(seal_all(config, work).shards) == 2
    manifest = retry_failed(config, work, proxy=None)
    assert [shard.name for shard in manifest.shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert verify(config) == []


def test_nothing_can_heal(tmp_path: Path, source: Source) -> None:
    config, work = build_units(tmp_path)
    for unit in (0, 1):
        write_unit(work, unit, [selection_row(8 * unit + i) for i in range(8)], {3: Reason.DEAD_LINK})
    seal_all(config, work)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").iterdir()}
    retry_failed(config, work, proxy=None)
    assert source.asked == []
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


@pytest.mark.parametrize("twin", [0, 9])  # a picture of the same unit, and one of a later unit
def test_a_gained_picture_that_came_before_is_a_duplicate(
    sealed: tuple[BuildConfig, Path], source: Source, tmp_path: Path, twin: int
) -> None:
    config, work = sealed
    before = contents(tmp_path / "out")
    source.answers[HEALED] = picture(twin)
    manifest = retry_failed(config, work, proxy=None)
    assert manifest.funnel["rejected"]["duplicate_image"] == 1
    row = read_outcomes(work, 0).to_pylist()[3]
    assert (row["reason"], row["offset"]) == ("duplicate_image", -1)
    assert {name: data for name, data in contents(tmp_path / "out").items() if name[:5].isdigit()} == {
        name: data for name, data in before.items() if name[:5].isdigit()
    }


def test_of_two_equal_gained_pictures_the_first_is_kept(sealed: tuple[BuildConfig, Path], source: Source) -> None:
    config, work = sealed
    source.answers = {HEALED: b"the same", STILL_DOWN: b"the same"}
    manifest = retry_failed(config, work, proxy=None)
    assert [shard.num_samples for shard in manifest.shards] == [7, 6]


class _Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def _count_changes(patch: pytest.MonkeyPatch, kill_at: int | None) -> list[str]:
    """Note every file that appears, is replaced or removed; with `kill_at` be dead before the change of that number."""
    changes: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            changes.append(f"{name} {args[-1]}")
            if len(changes) == kill_at:
                raise _Killed
            return real(*args, **kwargs)

        return call

    for module, name in ((os, "replace"), (store, "delete"), (shutil, "rmtree"), (retry, "remove_again")):
        patch.setattr(module, name, counted(name, getattr(module, name)))
    return changes


NUM_CHANGES = 27
"""Changes of one retry in which both units gain a picture."""


@pytest.mark.parametrize("moment", range(1, NUM_CHANGES + 1))
def test_killed_anywhere_and_run_again(
    sealed: tuple[BuildConfig, Path], source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    config, work = sealed
    source.answers = {}
    with monkeypatch.context() as patch:
        changes = _count_changes(patch, moment)
        with pytest.raises(_Killed):
            retry_failed(config, work, proxy=None)
    assert len(changes) <= NUM_CHANGES
    if (tmp_path / "out" / "manifest.json").exists():
        assert {damage.file for damage in verify(config)} <= {"README.md", "sizes.json"}
    if moment % 2:  # by way of the build, or at once
        resume(config, work)
        assert verify(config) == []
    retry_failed(config, work, proxy=None)
    gone = {position: reason for position, reason in REJECTED.items() if position != 3}
    other_config, other_work = build_units(tmp_path / "other")
    for unit in (0, 1):
        write_unit(other_work, unit, [selection_row(8 * unit + i) for i in range(8)], gone)
    seal_all(other_config, other_work)
    assert contents(tmp_path / "out") == contents(tmp_path / "other" / "out")
    for unit in (0, 1):
        attempts = read_outcomes(work, unit).to_pylist()[3]["attempts"]
        assert [attempt["reason"] for attempt in attempts] == ["unreachable", ""]
    assert not (work / "retry").exists()
    assert not list(work.glob("fetched/*.tar"))


def test_the_kills_reach_to_the_last_change(
    sealed: tuple[BuildConfig, Path], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.answers = {}
    with monkeypatch.context() as patch:
        changes = _count_changes(patch, None)
        retry_failed(*sealed, proxy=None)
    assert changes[-1].startswith("rmtree")
    assert len(changes) == NUM_CHANGES


def test_answers_to_an_earlier_question_are_not_believed(sealed: tuple[BuildConfig, Path], source: Source) -> None:
    config, work = sealed
    list(source.fetch_again(config, work, {0: [3], 1: [3]}))
    source.answers[HEALED] = Reason.DEAD_LINK
    manifest = retry_failed(config, work, proxy=None)
    assert manifest.funnel["rejected"]["dead_link"] == 3
    assert not again_tar(work, 0).exists()
    assert not again_path(work, 0).exists()


def test_the_rewritten_tar_is_a_tar(
    sealed: tuple[BuildConfig, Path], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, work = sealed
    found: dict[str, tuple[int, bytes]] = {}
    real = seal.seal_unit

    def look(config: BuildConfig, work: Path, unit: int) -> Any:
        if unit == 0:
            with tarfile.open(fetched_tar(work, 0), ignore_zeros=False) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = (member.offset_data, file.read())
        return real(config, work, unit)

    monkeypatch.setattr(retry, "seal_unit", look)
    retry_failed(config, work, proxy=None)
    rows = [row for row in read_outcomes(work, 0).to_pylist() if not row["reason"]]
    assert found == {row["member"]: (row["offset"], picture(row["row"])) for row in rows}
    assert len(found) == 7


def test_a_damaged_shard_is_not_built_upon(sealed: tuple[BuildConfig, Path], tmp_path: Path) -> None:
    config, work = sealed
    path = tmp_path / "out" / "00000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"00000\.tar: the picture of key 000 is damaged; run --stage repair first"):
        retry_failed(config, work, proxy=None)
    data[600] ^= 1
    path.write_bytes(data)
    retry_failed(config, work, proxy=None)
    assert contents(tmp_path / "out") == never_failed(tmp_path / "other")


def test_without_a_selection(sealed: tuple[BuildConfig, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the select stage has not finished"):
        retry_failed(sealed[0], tmp_path / "nothing", proxy=None)


def test_duplicates_may_be_kept(sealed: tuple[BuildConfig, Path], source: Source) -> None:
    config, work = sealed
    source.answers[HEALED] = picture(0)
    manifest = retry_failed(replace(config, keep_duplicates=True), work, proxy=None)
    assert manifest.num_samples == 13
    assert json.loads(store.read_bytes(f"{config.output}/sizes.json")) == {"00000.tar": 7, "00001.tar": 6}
    assert duplicates.Duplicates(config, work).mark([0]) == 1
