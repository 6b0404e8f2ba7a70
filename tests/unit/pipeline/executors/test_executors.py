"""Which executor the settings lead to, and that the one here fetches and seals what it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import BuildConfig, SlurmConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.executors import executors, slurm_tasks
from pipeline.executors.executors import open_executor

CONFIG = BuildConfig(metadata=("rows.tsv",), subset_list="list.tsv", output="replaced", processes=1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is asked of fetching and sealing, instead of doing it."""
    made: list[tuple[Any, ...]] = []

    def fetch(config: BuildConfig, work: Path, units: Sequence[int], *, proxy: str | None = None) -> Iterator[int]:
        made.append(("fetch", config, list(units), proxy))
        yield from units

    def seal(config: BuildConfig, work: Path, unit: int) -> None:
        made.append(("seal", config, unit))
        if unit == 13:
            raise StoreError("the disk is full")

    for module in (executors, slurm_tasks):
        monkeypatch.setattr(module, "fetch_units", fetch)
        monkeypatch.setattr(module, "seal_unit", seal)
    return made


@pytest.mark.parametrize("name", ["here", "spark", "ray"])
def test_units_are_made_by_this_machine(name: Any, made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    config = replace(CONFIG, executor=name)
    with open_executor(config, tmp_path, proxy="http://p") as executor:
        assert list(executor.fetch([3, 4])) == [3, 4]
        assert list(executor.seal([3, 4])) == [3, 4]
    assert made == [("fetch", config, [3, 4], "http://p"), ("seal", config, 3), ("seal", config, 4)]


def test_a_group_is_worth_a_call_of_img2dataset(tmp_path: Path) -> None:
    with open_executor(replace(CONFIG, processes=3), tmp_path, proxy=None) as executor:
        assert executor.group_size == 12
    with open_executor(replace(CONFIG, samples_per_shard=100), tmp_path, proxy=None) as executor:
        assert executor.group_size == 200


def test_sealing_ends_with_an_error_and_when_it_is_closed(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    with open_executor(CONFIG, tmp_path, proxy=None) as executor:
        sealing = executor.seal([1, 13, 2])
        assert next(sealing) == 1
        with pytest.raises(StoreError, match="disk is full"):
            next(sealing)
        sealing = executor.seal([5, 6])
        assert next(sealing) == 5
        executor.close()
        assert list(sealing) == []


def test_units_are_sealed_in_other_processes(tmp_path: Path) -> None:
    """There is nothing to seal: what comes back is the error of a worker."""
    with (
        open_executor(replace(CONFIG, processes=2), tmp_path, proxy=None) as executor,
        pytest.raises(StoreError, match=str(tmp_path)) as failed,
    ):
        list(executor.seal([1, 2]))
    assert "in a worker process" in "".join(failed.value.__notes__)


def test_slurm_without_slurm_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ConfigError, match="sbatch"),
        open_executor(replace(CONFIG, executor="slurm"), tmp_path, proxy=None),
    ):
        pass


def test_a_slurm_task_makes_its_units_with_the_processes_of_a_task(
    made: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_tasks, "check_holder", lambda output, work: made.append(("check", output)))
    config = replace(CONFIG, executor="slurm", processes=8, slurm=SlurmConfig(cpus_per_task=1))
    slurm_tasks.run("fetch", config, tmp_path, [1, 2], "http://p")
    slurm_tasks.run("seal", config, tmp_path, [3, 4], None)
    alone = replace(config, executor="here", processes=1)
    assert made == [
        ("fetch", alone, [1, 2], "http://p"),
        *[("check", "replaced"), ("seal", alone, 3)],
        *[("check", "replaced"), ("seal", alone, 4)],
    ]


def test_a_slurm_task_that_may_not_write_ends_with_the_reason(
    made: list[tuple[Any, ...]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, output=str(tmp_path / "out"), slurm=SlurmConfig(cpus_per_task=1))
    with pytest.raises(SystemExit):
        slurm_tasks.run("seal", config, tmp_path, [3], None)
    assert "has ended" in caplog.records[-1].message
    assert made == []
