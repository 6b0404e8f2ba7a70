"""The verb `slip ledger`: `verify` proves a run's epochs, `show` prints a step, `checksum` compares runs.

In: a command line. Out: text (or JSON, for programs) on standard output and an exit status; the counting is
`slip.ledger_verify`'s.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from pipeline import store
from pipeline.errors import InputError
from slip.command import run_verb
from slip.data.sets import Mix, open_mix
from slip.ledger import Files, Segment, read_segment, written_segments
from slip.ledger_counts import Kind
from slip.ledger_format import Int64Array, LedgerFile
from slip.ledger_verify import Verdict, missing_ranks, verify

logger = logging.getLogger(__name__)

_MOST_PROBLEMS = 20
_HEADINGS = ("data set", "epoch", "", "steps", "samples", "exactly once", "missed", "doubled", "replaced")
_KINDS: tuple[Kind, ...] = ("missed", "doubled", "replaced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Prove that every sample was used exactly once per epoch, or name what was missed or doubled.

    Exit status 0 when it is proved, 1 when it is not.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder or URL of a run that was trained with --ledger."""
    manifest: tuple[str, ...] = ()
    """Manifests the run used. Default: those in the run's config.json."""
    weights: tuple[float, ...] = ()
    """Their weights. Default: those in the run's config.json."""
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Print which samples each rank consumed in one step."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder or URL of a run that was trained with --ledger."""
    step: int
    """Which step; the first is 0."""
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """Print a checksum of each step's samples, and one of all; they do not depend on ranks or checkpoints."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder or URL of a run that was trained with --ledger."""
    json: bool = False
    """Print JSON lines instead of text."""


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _open_mix(settings: Verify) -> Mix:
    """The data sets given, or else those the run was trained on."""
    if settings.manifest:
        return open_mix(settings.manifest, settings.weights)
    url = store.join(settings.run, "config.json")
    if not store.exists(url):
        raise InputError(f"{url}: there is no such file; is this the folder of a run? Or give --manifest")
    try:
        data = json.loads(store.read_bytes(url))["data"]
        return open_mix(data["manifest"], settings.weights or data["weights"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{url}: expected a run's settings with data.manifest and data.weights ({error!r:.200}); or give --manifest"
        ) from error


def _table(verdict: Verdict) -> list[str]:
    """The counts of all epochs, in columns."""
    rows = [
        (
            *(f"{epoch.data_set} {epoch.name}", str(epoch.epoch), "finished" if epoch.finished else "under way"),
            f"{epoch.first_step}-{epoch.last_step}",
            *(f"{n:,}" for n in (epoch.noted, epoch.exactly_once, epoch.missed, epoch.doubled, epoch.replaced)),
        )
        for epoch in verdict.epochs
    ]
    widths = [max(len(row[i]) for row in [_HEADINGS, *rows]) for i in range(len(_HEADINGS))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [_HEADINGS, *rows]
    ]


def _counted(count: int, noun: str) -> str:
    """(1, "epoch") -> "1 epoch", (2000, "epoch") -> "2,000 epochs"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _conclusion(verdict: Verdict) -> str:
    """The verdict in one line."""
    ranks = ", ".join(map(str, verdict.world_sizes))
    what = f"{_counted(verdict.steps, 'step')} of {verdict.global_batch} samples; ranks: {ranks}"
    if not verdict.proved:
        wrong = [f"{_counted(verdict.total(kind), 'sample')} {kind}" for kind in _KINDS[:2] if verdict.total(kind)]
        wrong += [f"{_counted(len(verdict.problems), 'fault')} of the ledger"] if verdict.problems else []
        return f"NOT proved: {', '.join(wrong)}; {what}"
    finished = sum(epoch.finished for epoch in verdict.epochs)
    begun, replaced = len(verdict.epochs) - finished, verdict.total("replaced")
    return (
        f"proved: every sample exactly once in {_counted(finished, 'finished epoch')}"
        + f", at most once in {begun} under way"
        + (f", but for {_counted(replaced, 'damaged sample')} that others replaced" if replaced else "")
        + f"; {what}"
    )


def _text(verdict: Verdict) -> list[str]:
    lines = _table(verdict)
    for kind in _KINDS:
        named = [fault for fault in verdict.faults if fault.kind == kind]
        for fault in named:
            where = f"sample {fault.sample_id} ({fault.shard}, row {fault.row}, key {fault.key})"
            detail = f", {fault.detail}" if fault.detail else ""
            lines.append(f"{kind}: {where} in epoch {fault.epoch} of data set {fault.data_set}{detail}")
        if verdict.total(kind) > len(named):
            lines.append(f"{kind}: {verdict.total(kind) - len(named):,} more samples")
    lines += [f"ledger: {problem}" for problem in verdict.problems[:_MOST_PROBLEMS]]
    if len(verdict.problems) > _MOST_PROBLEMS:
        lines.append(f"ledger: {len(verdict.problems) - _MOST_PROBLEMS:,} more faults")
    return [*lines, _conclusion(verdict)]


def _verify(settings: Verify) -> int:
    verdict = verify(settings.run, _open_mix(settings))
    if settings.json:
        _print(json.dumps({"proved": verdict.proved, **asdict(verdict)}))
    else:
        _print("\n".join(_text(verdict)))
    return 0 if verdict.proved else 1


def _sound_files(segment: Segment, files: Files) -> list[LedgerFile]:
    """The files of all ranks; InputError when one is missing or damaged."""
    for problem in missing_ranks(segment, files):
        raise InputError(problem)
    sound = []
    for file in read_segment(segment, files):
        if isinstance(file, InputError):
            raise file
        sound.append(file)
    return sound


def _show(settings: Show) -> int:
    found, step = written_segments(settings.run), settings.step
    holding = next((part for part in found if part[0].first <= step < part[0].stop), None)
    if holding is None:
        raise InputError(f"{settings.run}: step {step} is not in the ledger; its last step is {found[-1][0].stop - 1}")
    files = _sound_files(*holding)
    world_size = len(files)
    ranks: list[dict[str, Any]] = []
    for file in files:
        epochs: dict[int, list[int]] = {}
        replaced: list[dict[str, int]] = []
        for block in file.blocks():
            ends = np.cumsum(block.counts)
            for i in np.flatnonzero(block.steps == step):
                epochs[int(block.epochs[i])] = block.ids[ends[i] - block.counts[i] : ends[i]].tolist()
            for _, epoch, planned, used in block.replaced[block.replaced[:, 0] == step].tolist():
                replaced.append({"epoch": epoch, "planned": planned, "used": used})
        ranks.append({"rank": file.header.rank, "epochs": epochs, "replaced": replaced})
    if settings.json:
        _print(json.dumps({"step": step, "world_size": world_size, "ranks": ranks}))
        return 0
    for entry in ranks:
        for epoch, ids in entry["epochs"].items():
            _print(f"rank {entry['rank']} of {world_size}, epoch {epoch}: {' '.join(map(str, ids))}")
        for one in entry["replaced"]:
            _print(f"rank {entry['rank']}: sample {one['used']} in place of {one['planned']}, which is damaged")
    return 0


def _ids_by_step(segment: Segment, files: Files) -> Iterator[tuple[int, Int64Array]]:
    """(step, all ranks' planned ids, sorted) of a segment."""
    steps, ids = [], []
    for file in _sound_files(segment, files):
        for block in file.blocks():
            steps.append(np.repeat(block.steps, block.counts))
            ids.append(block.ids)
    if steps:
        steps_N, ids_N = np.concatenate(steps), np.concatenate(ids)
        order = np.lexsort((ids_N, steps_N))
        steps_N, ids_N = steps_N[order], ids_N[order]
        cuts = np.flatnonzero(np.diff(steps_N)) + 1
        for begin, ids_of_step in zip([0, *cuts.tolist()], np.split(ids_N, cuts), strict=True):
            yield int(steps_N[begin]), ids_of_step


def _checksum(settings: Checksum) -> int:
    total = hashlib.sha256()
    num_steps = num_samples = 0
    for segment, files in tqdm(
        written_segments(settings.run), desc="checksum", unit=" segments", disable=None, delay=2
    ):
        for step, ids in _ids_by_step(segment, files):
            digest = hashlib.sha256(ids.astype("<i8").tobytes())
            total.update(digest.digest())
            num_steps, num_samples = num_steps + 1, num_samples + len(ids)
            if settings.json:
                _print(json.dumps({"step": step, "samples": len(ids), "sha256": digest.hexdigest()}))
            else:
                _print(f"{step} {digest.hexdigest()}")
    if settings.json:
        _print(json.dumps({"steps": num_steps, "samples": num_samples, "sha256": total.hexdigest()}))
    else:
        _print(f"all {total.hexdigest()}")
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    """Run `slip ledger verify|show|checksum`; 0 done or proved, 1 error or not proved, 2 usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    about = "Say what a run consumed, from the ledger that training keeps with --ledger."

    def work() -> int:
        settings = tyro.cli(Verify | Show | Checksum, args=words, prog="slip ledger", description=about)
        if isinstance(settings, Verify):
            return _verify(settings)
        return _show(settings) if isinstance(settings, Show) else _checksum(settings)

    return run_verb(work)
