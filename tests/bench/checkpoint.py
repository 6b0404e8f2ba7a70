"""Checkpoints: how long a training step waits, how long a write takes, and what training loses meanwhile.

Comes in: nothing; the state is random numbers in tensors of ViT-B/16's and its text tower's shapes, with the two
moments of AdamW, until it is as large as asked (SLIP with ViT-B/16: about 2,000 MB).
Goes out: for every place a table of alternate writes, beside training (`slip.checkpoint_writer`) and before it goes
on (serialised in memory, then stored), and how many steps a busy thread of training does during a write.

    python tests/bench/checkpoint.py --folder /tmp --megabytes 300

Training is stood in for by two loops on one core: matrix products of 256 x 256, and Python alone, which feels every
moment that the writing thread holds the interpreter's lock.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from pipeline import store  # noqa: E402
from slip import checkpoint  # noqa: E402
from slip.checkpoint import State  # noqa: E402
from slip.checkpoint_writer import CheckpointWriter  # noqa: E402

STEPS = cycle(range(1, 10**6))


def shapes() -> Iterator[tuple[int, ...]]:
    """Parameters of a captioned ViT-B/16, block by block, as long as one likes."""
    yield (49_408, 512)
    while True:
        for width in (768, 512):
            yield from ((3 * width, width), (3 * width,), (width, width), (width,))
            yield from ((4 * width, width), (4 * width,), (width, 4 * width), (width,), (width,), (width,))


def state_of(num_bytes: int, device: str) -> State:
    """A state of about so many bytes."""
    model: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    held = 0
    for i, shape in enumerate(shapes()):
        if held >= num_bytes:
            break
        if i == 0 and num_bytes < 1e9:
            continue  # the embedding of tokens alone makes 304 MB
        name = f"parameter{i}"
        model[name] = torch.randn(shape, device=device)
        moments[name] = {"exp_avg": torch.randn(shape, device=device), "exp_avg_sq": torch.rand(shape, device=device)}
        held += 3 * model[name].nbytes
    return State(
        step=0,
        samples=0,
        model=model,
        optimizer={"state": moments, "param_groups": []},
        ema=None,
        config={},
        data_sha256="0" * 64,
        objective="slip",
        gather="exact",
        lanes=1,
        skipped=0,
        random=checkpoint.random_states(),
        goodput={},
    )


def write_before_going_on(state: State, output: str) -> float:
    """Seconds training waits for a write without a thread."""
    started = time.perf_counter()
    buffer = io.BytesIO()
    torch.save({field.name: getattr(state, field.name) for field in dataclasses.fields(state)}, buffer)
    store.write_bytes(checkpoint.url_of(output, state.step), buffer.getvalue())
    return time.perf_counter() - started


def pace(work: Callable[[], object], meanwhile: Callable[[], object]) -> tuple[float, float]:
    """Calls of `work` a second while `meanwhile` runs in another thread, and the longest time between two, in s."""
    ended = threading.Event()

    def other() -> None:
        meanwhile()
        ended.set()

    thread = threading.Thread(target=other)
    count, longest = 0, 0.0
    started = last = time.perf_counter()
    thread.start()
    while not ended.is_set():
        work()
        now = time.perf_counter()
        count, longest, last = count + 1, max(longest, now - last), now
    thread.join()
    return count / (last - started), longest


def bench_waits(state: State, output: str, repeats: int) -> None:
    """Alternate writes with and without the thread."""
    print(f"{output}\n  {'way':<12}{'step waits':>12}{'write':>10}{'ratio':>9}")
    rows: dict[str, list[tuple[float, float]]] = {"beside": [], "before": []}
    with CheckpointWriter(output, keep=1) as writer:
        for i in range(repeats + 1):
            writer.write(dataclasses.replace(state, step=next(STEPS)))
            writer.wait()
            waited_s, took_s = writer.waited_s, writer.written_s
            # The first write makes the host memory.
            if i == 0:
                print(f"  {'first':<12}{waited_s:>10.3f} s{took_s:>8.2f} s{waited_s / took_s:>9.1%}")
                continue
            rows["beside"].append((waited_s, took_s))
            took_s = write_before_going_on(dataclasses.replace(state, step=next(STEPS)), output)
            rows["before"].append((took_s, took_s))
    for way, found in rows.items():
        for waited_s, took_s in found:
            print(f"  {way:<12}{waited_s:>10.3f} s{took_s:>8.2f} s{waited_s / took_s:>9.1%}")
    (waited_s, took_s), before_s = (
        [statistics.median(column) for column in zip(*rows["beside"], strict=True)],
        statistics.median(took for took, _ in rows["before"]),
    )
    print(
        f"  median: a step waits {waited_s:.3f} s, {waited_s / took_s:.1%} of the write and {waited_s / before_s:.1%} "
        "of a write before going on"
    )


def bench_pace(state: State, output: str, repeats: int) -> None:
    """What a busy thread does during writes, beside the same with nothing to write."""
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    works: dict[str, Callable[[], object]] = {"matrix products": lambda: a @ b, "Python": lambda: None}
    for name, work in works.items():
        shares, pauses, idle_pauses = [], [], []
        with CheckpointWriter(output, keep=1) as writer:
            writer.write(dataclasses.replace(state, step=next(STEPS)))
            writer.wait()
            for _ in range(repeats):
                alone, idle_pause = pace(work, lambda: time.sleep(1.0))
                writer.write(dataclasses.replace(state, step=next(STEPS)))
                beside, pause = pace(work, writer.wait)
                shares.append(beside / alone)
                pauses.append(pause)
                idle_pauses.append(idle_pause)
        print(
            f"  {name}: {statistics.median(shares):.0%} of the pace without a write, longest pause "
            f"{max(pauses) * 1e3:.0f} ms (without: {max(idle_pauses) * 1e3:.0f} ms)"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None, help="where the temporary folder goes; needs three times the size")
    parser.add_argument("--url", action="append", default=[], help="also write below this URL; may be repeated")
    parser.add_argument("--megabytes", type=int, default=2_000, help="size of a checkpoint (10^6 bytes)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="where the tensors are: cpu or cuda")
    options = parser.parse_args()
    state = state_of(options.megabytes * 10**6, options.device)
    num_threads = torch.get_num_threads()
    held = sum(tensor.nbytes for tensor in state.model.values()) * 3
    print(f"{held / 1e6:,.0f} MB in {3 * len(state.model)} tensors on {options.device}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for output in (name, *options.url):
            bench_waits(state, output, options.repeats)
            torch.set_num_threads(1)
            bench_pace(state, output, options.repeats)
            torch.set_num_threads(num_threads)
    for output in options.url:
        for step in checkpoint.steps_of(output):
            store.delete(checkpoint.url_of(output, step))


if __name__ == "__main__":
    main()
