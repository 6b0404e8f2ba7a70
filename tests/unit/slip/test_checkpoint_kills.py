"""Whatever a kill interrupts: the newest checkpoint is complete, and best.json names one that exists."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from slip import checkpoint
from slip.checkpoint_writer import CheckpointWriter
from tests.checkpoint_states import found_best, state

ROOT = Path(__file__).resolve().parents[3]


class Killed(BaseException):
    """Ends the writing thread where a kill would have."""


OPERATIONS = ("move_file", "put_file", "write_bytes", "delete", "list_names", "exists", "read_bytes")


def run_until(output: str, monkeypatch: pytest.MonkeyPatch, last: int, *, before: bool) -> bool:
    """Go on from the newest checkpoint to step 7, killed at the store operation number `last`; whether it was."""
    count = 0
    lock = threading.Lock()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal count
            with lock:
                count += 1
                mine = count
            if mine > last or (mine == last and before):
                raise Killed
            result = real(*args)
            if mine == last:
                raise Killed
            return result

        return call

    first = max(checkpoint.steps_of(output), default=0) + 1
    with monkeypatch.context() as patched:
        for name in OPERATIONS:
            patched.setattr(store, name, counted(getattr(store, name)))
        writer = CheckpointWriter(output, keep=2)
        try:
            for step in range(first, 8):
                writer.write(state(step), best=step / 10 if step in (1, 2, 5) else None)
                writer.wait()
        except Killed:
            return True
        finally:
            writer._thread.shutdown()
    return False


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_any_store_operation_leaves_a_run_that_goes_on(
    output: str, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    for last in range(1, 200):
        run = store.join(output, str(last))
        killed = run_until(run, monkeypatch, last, before=before)
        steps = checkpoint.steps_of(run)
        if steps:
            assert all(checkpoint.load(checkpoint.url_of(run, step)).step == step for step in steps)
        assert found_best(run) in {None, *steps}
        assert not run_until(run, monkeypatch, 10**9, before=before)
        best = found_best(run)
        # A checkpoint that was there already is not evaluated again: its best.json may be missing.
        assert best in {None, 1, 2, 5}
        assert set(checkpoint.steps_of(run)) <= {6, 7, best, *steps}
        assert {6, 7} <= set(checkpoint.steps_of(run))
        if not killed:
            assert best == 5
            assert checkpoint.steps_of(run) == [5, 6, 7]
            break
    assert 20 < last < 199


LOOP = """
import os, random, signal, sys, time
import torch
sys.path.insert(0, sys.argv[2])
from slip import checkpoint
from slip.checkpoint_writer import CheckpointWriter
output = sys.argv[1]

def train():
    url = checkpoint.newest(output)
    step = checkpoint.load(url).step if url else 0
    best = checkpoint.best(output)
    with CheckpointWriter(output, keep=2) as writer:
        while True:
            step += 1
            state = checkpoint.State(
                step=step, samples=step, model={"w": torch.full((5000,), float(step))}, optimizer={}, ema=None,
                config={}, data_sha256="", objective="", gather="", lanes=1, skipped=0, random={}, goodput={},
            )
            writer.write(state, best=step / 1e6 if step % 3 == 0 else None)

draw, seen = random.Random(0), 0
for kill in range(12):
    child = os.fork()
    if child == 0:
        train()
    time.sleep(0.05 + 0.2 * draw.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    url = checkpoint.newest(output)
    if url is None:
        assert seen == 0
        continue
    state = checkpoint.load(url)
    assert state.step >= seen and bool((state.model["w"] == state.step).all()), (state.step, seen)
    seen = state.step
    names = os.listdir(output + "/checkpoints")
    assert "best.json" not in names or checkpoint.best(output) is not None, names
    assert sum(".part-" in name for name in names) <= 2, names
print(seen)
"""


def test_a_killed_process_leaves_a_newest_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOP, str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
