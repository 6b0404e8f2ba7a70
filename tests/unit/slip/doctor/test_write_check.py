"""The trial checkpoint: as large as asked, whole, gone afterwards, and judged by its rate."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from pipeline import store
from pipeline.errors import StoreError
from slip.doctor.config import DoctorConfig
from slip.doctor.exchange import Answer
from slip.doctor.traces import Traces
from slip.doctor.write_check import Written, judge_written, trial_state, write_trial


@pytest.mark.parametrize("num_bytes", [1, 7_999_999, 8_000_000, 20_000_001])
def test_a_state_has_so_many_bytes(num_bytes: int) -> None:
    state = trial_state(num_bytes)
    assert sum(tensor.nbytes for tensor in state.values()) == num_bytes
    # Nothing in it that a disk could compress.
    assert num_bytes < 1000 or len(torch.bincount(state["tensor-0"].int())) == 256


def test_it_is_written_whole_and_removed(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[str, list[str]]] = []

    def move_file(local: Path, url: str) -> None:
        moved.append((url, sorted(torch.load(local))))
        real_move_file(local, url)

    real_move_file = store.move_file
    monkeypatch.setattr(store, "move_file", move_file)
    with Traces() as traces:
        written = write_trial(output, 9_000_000, "word", traces)
        assert not store.exists(moved[0][0])
    assert 9_000_000 < written.num_bytes < 9_100_000
    ((url, names),) = moved
    assert url.endswith("slip-doctor-word.pt")
    assert names == ["tensor-0", "tensor-1"]
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]
    assert store.list_names(output) == []


def test_one_cut_short_is_an_error_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "size", lambda url: 3)
    with Traces() as traces, pytest.raises(StoreError, match=r"slip-doctor-word\.pt: has 3 bytes after writing"):
        write_trial(str(tmp_path / "runs"), 1000, "word", traces)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_nothing_stays(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(state: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with Traces() as traces, pytest.raises(StoreError, match=r"cannot write: .*No space left"):
        write_trial(output, 1000, "word", traces)
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]
    assert Path(tempfile.gettempdir()) == tmp_path / "scratch"


@pytest.mark.parametrize(("seconds", "level"), [(1.0, "OK"), (3.0, "WARN")])
def test_the_rate_is_judged(seconds: float, level: str) -> None:
    answers = [
        Answer(rank=0, node="a", value=Written(num_bytes=100_000_000, seconds=seconds)),
        Answer(rank=1, node="b"),
    ]
    (found,) = judge_written(answers, DoctorConfig(output="runs", min_write_mb_s=50.0))
    assert (found.level, found.where) == (level, ("a",))
    assert found.found.startswith(f"100 MB to runs in {seconds:.2f} s, {100 / seconds:.0f} MB/s")
