"""Writing beside training: what is copied, what is kept, what failures and kills leave behind."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from pipeline import store
from pipeline.errors import StoreError
from slip import checkpoint, checkpoint_writer
from slip.checkpoint_writer import CheckpointWriter, HostMemory, mapped
from tests.checkpoint_states import found_best, names, state

ROOT = Path(__file__).resolve().parents[3]


class Gate:
    """Stands in for a store function: waits until it is opened."""

    def __init__(self, real: Callable[..., None]) -> None:
        self.real, self.reached, self.opened = real, threading.Event(), threading.Event()

    def __call__(self, *args: Any) -> None:
        self.reached.set()
        assert self.opened.wait(30)
        self.real(*args)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(store.move_file)
    monkeypatch.setattr(store, "move_file", gate)
    yield gate
    gate.opened.set()


def test_the_state_may_change_at_once(output: str, gate: Gate) -> None:
    written = state(1)
    with CheckpointWriter(output, keep=3) as writer:
        writer.write(written)
        written.model["weight"].fill_(-1)
        written.optimizer["state"]["weight"]["step"].fill_(-1)
        written.optimizer["param_groups"][0]["betas"] = ()
        assert checkpoint.newest(output) is None
        gate.opened.set()
        writer.wait()
        url = checkpoint.newest(output)
        assert url is not None
        found = checkpoint.load(url)
    assert found.model["weight"].tolist() == [[1.0] * 3] * 2
    assert found.model["half"].dtype == torch.bfloat16
    assert found.optimizer == {
        "state": {"weight": {"step": torch.tensor(1.0)}},
        "param_groups": [{"betas": (0.9, 0.98)}],
    }
    assert writer.written_s > 0
    assert writer.waited_s > 0


def test_one_write_is_in_flight(output: str, gate: Gate) -> None:
    with CheckpointWriter(output, keep=3) as writer:
        writer.write(state(1))
        assert gate.reached.wait(30)
        second = threading.Thread(target=writer.write, args=(state(2),))
        second.start()
        second.join(0.1)
        assert second.is_alive()
        gate.opened.set()
        second.join(30)
        assert writer.waited_s >= 0.1
        writer.wait()
        assert [checkpoint.load(checkpoint.url_of(output, step)).step for step in (1, 2)] == [1, 2]


def test_an_optimizer_by_name_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    moments = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True))
    with CheckpointWriter(str(tmp_path), keep=1) as writer:
        writer.write(state(1, model=model.state_dict(), optimizer=dict(moments)))
    found = checkpoint.load(checkpoint.url_of(str(tmp_path), 1))
    assert str(found.optimizer) == str(dict(moments))
    assert "0.weight" in found.optimizer["state"]
    assert all(torch.equal(found.model[name], value) for name, value in model.state_dict().items())


def test_host_memory_is_used_again_and_nothing_else_is_written(tmp_path: Path) -> None:
    memory = HostMemory()
    large = torch.arange(1000.0)
    tensors = [
        large[10:20:2],
        torch.tensor(3),
        torch.zeros(0, 2),
        torch.ones(3, dtype=torch.bool),
        large.view(10, 100).T,
    ]
    first = memory.copy(tensors)
    where = [place.data_ptr() for place in first]
    large += 1
    second = memory.copy(tensors)
    assert [place.data_ptr() for place in second] == where
    for place, tensor in zip(second, tensors, strict=True):
        assert torch.equal(place, tensor)
        assert place.dtype == tensor.dtype
        assert place.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert torch.equal(memory.copy([large])[0], large)
    memory.free()


@pytest.mark.parametrize("status", [0, 2])
def test_pinned_memory_is_registered_and_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    calls: list[tuple[str, int]] = []

    class Runtime:
        def cudaHostRegister(self, pointer: int, num_bytes: int, flags: int) -> int:  # noqa: N802
            assert (num_bytes, flags) == (64 + 128, 1)
            calls.append(("register", pointer))
            return status

        def cudaHostUnregister(self, pointer: int) -> int:  # noqa: N802
            calls.append(("unregister", pointer))
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    memory = HostMemory()
    tensors = [torch.ones(3), torch.ones(65, dtype=torch.uint8)]
    memory._allocate(tensors, pin=True)
    places = memory.copy(tensors)
    memory.free()
    memory.free()
    pointer = places[0].data_ptr()
    assert calls == [("register", pointer), ("unregister", pointer)][: 2 if status == 0 else 1]
    assert ("cannot be pinned" in caplog.text) == (status != 0)


def test_bytes_do_not_depend_on_who_writes(tmp_path: Path) -> None:
    files = []
    for run in ("a", "b"):
        with CheckpointWriter(str(tmp_path / run), keep=1) as writer:
            writer.write(state(0))
            writer.write(state(1))
        files.append(Path(checkpoint.url_of(str(tmp_path / run), 1)).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("value", [np.float64(1.0), Path("x"), {1, 2}, torch.float32])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, value: Any) -> None:
    with CheckpointWriter(str(tmp_path), keep=1) as writer:
        with pytest.raises(TypeError, match=r"state\.goodput\.step\.1 is a .*plain data"):
            writer.write(state(1, goodput={"step": [0, value]}))
        writer.write(state(2))
    assert checkpoint.steps_of(str(tmp_path)) == [2]


def test_plain_data_keeps_its_form() -> None:
    value = OrderedDict(a=[1, (2.0, None)], b={3: b"x", "c": torch.ones(1)})
    assert mapped(value, lambda _: torch.zeros(1)) == {"a": [1, (2.0, None)], "b": {3: b"x", "c": torch.zeros(1)}}


def test_the_newest_and_the_best_are_kept(output: str) -> None:
    with CheckpointWriter(output, keep=2) as writer:
        for step, best in enumerate([None, 0.1, 0.3, None, None, None, 0.4, None, None, None], 1):
            writer.write(state(step), best=best)
            writer.wait()
            expected = {*range(max(1, step - 1), step + 1)}
            expected |= {step_best for step_best in [0, 0, 2, 3, 3, 3, 3, 7, 7, 7, 7][step : step + 1] if step_best}
            assert set(checkpoint.steps_of(output)) == expected
    assert checkpoint.best(output) == (checkpoint.url_of(output, 7), 0.4)
    url = store.join(output, "checkpoints", "best.json")
    assert json.loads(store.read_bytes(url)) == {"step": 7, "metric": "zeroshot/top1", "value": 0.4}


def test_what_was_just_written_is_kept_and_other_files_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "best.pt").write_bytes(b"mine")
    with CheckpointWriter(str(tmp_path), keep=1) as writer:
        for step in (9, 100_000_000, 11):
            writer.write(state(step))
    assert {path.name for path in folder.iterdir()} == {"best.pt", "step-00000011.pt", "step-100000000.pt"}


def test_then_comes_after_the_checkpoint_and_before_the_best(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    with CheckpointWriter(str(tmp_path), keep=1) as writer:
        for step in (1, 2):
            writer.write(state(step), best=step / 10, then=lambda: seen.append(names(str(tmp_path))))
    assert seen == [["step-00000001.pt"], ["best.json", "step-00000001.pt", "step-00000002.pt"]]
    assert names(str(tmp_path)) == ["best.json", "step-00000002.pt"]


def test_the_log_says_what_it_cost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), CheckpointWriter(str(tmp_path), keep=1) as writer:
        writer.write(state(5))
    assert r"step 5: wrote" in caplog.text
    assert "training waited" in caplog.text


def failing(*_: object) -> None:
    raise StoreError("s3://b/x: cannot write: it broke; run the same command again")


@pytest.mark.parametrize("call", ["write", "wait", "close", "leave"])
def test_a_failure_is_raised_at_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    writer = CheckpointWriter(str(tmp_path), keep=1)
    monkeypatch.setattr(store, "move_file", failing)
    writer.write(state(1))
    calls: dict[str, Callable[[], None]] = {
        "write": lambda: writer.write(state(2)),
        "wait": writer.wait,
        "close": writer.close,
        "leave": lambda: writer.__exit__(None, None, None),
    }
    with pytest.raises(StoreError, match="it broke; run the same"):
        calls[call]()
    writer.close()
    assert names(str(tmp_path)) == []


def test_a_failing_then_is_raised_and_stops_what_follows(tmp_path: Path) -> None:
    with CheckpointWriter(str(tmp_path), keep=1) as writer:
        writer.write(state(1), best=0.1)
        writer.write(state(2), best=0.2, then=failing)
        with pytest.raises(StoreError, match="it broke"):
            writer.wait()
    assert names(str(tmp_path)) == ["best.json", "step-00000001.pt", "step-00000002.pt"]
    assert found_best(str(tmp_path)) == 1


def test_an_exception_under_way_waits_and_is_not_masked(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ends_badly(step: int) -> None:
        with CheckpointWriter(str(tmp_path), keep=1) as writer:
            writer.write(state(step))
            raise ZeroDivisionError

    threading.Timer(0.2, gate.opened.set).start()
    with pytest.raises(ZeroDivisionError):
        ends_badly(1)
    assert checkpoint.steps_of(str(tmp_path)) == [1]
    monkeypatch.setattr(store, "move_file", failing)
    with pytest.raises(ZeroDivisionError):
        ends_badly(2)
    assert "the last checkpoint was not written: s3://b/x: cannot write: it broke" in caplog.text


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointWriter(output, keep=1) as writer:
        writer.write(state(1))
        writer.wait()

        def full(fields: object, file: Any) -> None:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        writer.write(state(2))
        with pytest.raises(StoreError, match=r"step-00000002\.pt: cannot write: .*No space.*free some space"):
            writer.wait()
    assert names(output) == ["step-00000001.pt"]
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_what_killed_processes_left_is_removed(output: str) -> None:
    folder, prefix = checkpoint_writer._scratch(output)
    folder.mkdir(parents=True, exist_ok=True)
    here = socket.gethostname()
    dead = subprocess.Popen(["true"])
    dead.wait()
    parts = {
        f"{prefix}step-00000007.pt.part-{here}-{dead.pid}": False,
        f"{prefix}step-00000007.pt.part-{here}-{os.getpid()}": False,
        f"{prefix}step-00000007.pt.part-{here}-{os.getppid()}": True,
        f"{prefix}step-00000007.pt.part-else-where-{dead.pid}": True,
        f"{prefix}step-00000008.pt.part-else-where-{dead.pid}": False,
        f"other-step-00000007.pt.part-{here}-{dead.pid}": True,
    }
    for name in parts:
        (folder / name).write_bytes(b"half")
        if "00000008" in name:
            os.utime(folder / name, (1e9, 1e9))
    with CheckpointWriter(output, keep=1) as writer:
        writer.write(state(1))
    left = {path.name for path in folder.iterdir() if ".part-" in path.name}
    assert left == {name for name, stays in parts.items() if stays}
