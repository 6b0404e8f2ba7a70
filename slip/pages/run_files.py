"""What a run has left in its folder or URL, read strictly into plain records; imports no torch.

In: the output of `slip train`, finished or still going on: config.json, metrics.jsonl, evaluation/*.json,
failures.jsonl, names under checkpoints/. Out: a `Run`. What makes a page wrong (a settings file that is none, a damaged
line amid the metrics) is an InputError; what a run may rightly look like (a line torn by a kill, no metrics yet) is a
note that the pages show. The digest of the data is `slip.pages.run_data`'s part, pages are `slip.pages.card`'s and
`slip.pages.compare`'s.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

from pipeline import store
from pipeline.errors import ConfigError, InputError
from slip.config import TrainConfig
from slip.evaluate.report import FORMAT
from slip.evaluate.score import Score, from_data
from slip.requeue import Failure, read_failures
from slip.schedule import total_steps

CONFIG, METRICS, EVALUATION, CHECKPOINTS = "config.json", "metrics.jsonl", "evaluation", "checkpoints"
_CHECKPOINT = re.compile(r"step-(\d{8,})\.pt")
_SECTIONS = ("data", "model", "objective", "optim", "eval")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of metrics.jsonl."""

    step: int
    """Optimizer steps done."""
    values: dict[str, float]
    """By name, finite numbers only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A labelled set that was not evaluated."""

    set: str
    error: str
    """Why."""
    missing: bool
    """It belongs to a suite and is simply not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One file that `slip evaluate` wrote for the run."""

    file: str
    step: int
    """Of the weights that were evaluated."""
    weights: str
    """model, or average."""
    scores: tuple[Score, ...]
    unread: tuple[Unread, ...]
    outstanding: tuple[str, ...]
    """Protocols and sets that were asked for and are not there: it goes on, or was killed."""
    weights_sha256: str
    trained_with: dict[str, str]
    """Versions of what trained the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its output shows it."""

    url: str
    name: str
    """Last part of its folder."""
    config: TrainConfig
    records: tuple[Record, ...]
    """By step."""
    checkpoints: tuple[int, ...]
    """Steps of those that are kept."""
    best: tuple[int, float] | None
    """Step and zero-shot accuracy (0 to 1) of the best checkpoint."""
    evaluations: tuple[Evaluation, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    """What a reader should know of these files, in sentences."""

    @property
    def step(self) -> int:
        """Steps that are known to be done."""
        return max([record.step for record in self.records] + list(self.checkpoints), default=0)

    @property
    def steps_per_epoch(self) -> float | None:
        """As its records say."""
        for record in reversed(self.records):
            if record.values.get("epoch", 0) > 0:
                return record.step / record.values["epoch"]
        return None

    @property
    def planned_steps(self) -> int | None:
        """Steps after which it is finished; None while no record tells how long an epoch is."""
        per_epoch = self.steps_per_epoch
        if per_epoch is None:
            return self.config.max_steps
        steps = total_steps(self.config.optim, steps_per_epoch=per_epoch)
        return min(steps, self.config.max_steps or steps)

    def points(self, name: str) -> list[tuple[Record, float]]:
        """The records that have a number of this name, with it; the last one where a step has two."""
        found = {record.step: (record, record.values[name]) for record in self.records if name in record.values}
        return [found[step] for step in sorted(found)]

    def names(self) -> list[str]:
        """Names of all numbers in the records, in the order in which they appear."""
        return list(dict.fromkeys(name for record in self.records for name in record.values))

    def last(self, name: str) -> float | None:
        """The newest number of this name."""
        return next((record.values[name] for record in reversed(self.records) if name in record.values), None)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


def _fits(value: Any, default: Any) -> bool:
    """Whether a setting is of its default's kind, as far as a default tells: "auto" may also be a number."""
    if isinstance(default, (bool, tuple)):
        return isinstance(value, bool if isinstance(default, bool) else list)
    return not isinstance(default, int | float) or (isinstance(value, int | float) and not isinstance(value, bool))


def _section(kind: type[Any], content: Any, where: str, notes: list[str]) -> Any:
    """A part of the settings; what this program does not know is left out, what the file lacks has its default."""
    if not isinstance(content, dict):
        raise InputError(f"{where} is {content!r:.80}, expected the settings of a run")
    known = {one.name for one in dataclasses.fields(kind)}
    for said, names in (
        ("has settings unknown to this version, which are not shown", sorted(content.keys() - known)),
        ("lacks settings, which are shown with their defaults", sorted(known - content.keys() - set(_SECTIONS))),
    ):
        if names:
            notes.append(f"{where} {said}: {_listed(names)}.")
    for one in dataclasses.fields(kind):
        if one.name in content and not _fits(content[one.name], one.default):
            raise InputError(f"{where}: {one.name} is {content[one.name]!r:.80}, expected something like {one.default}")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name in known})


def parse_config(data: bytes, where: str) -> tuple[TrainConfig, list[str]]:
    """Settings as a run wrote them, and notes on what does not fit; `where` is for messages."""
    notes: list[str] = []
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or any(name not in content for name in _SECTIONS[:-1]):
            raise InputError(f"{where}: not the settings of a run; expected the config.json that slip train writes")
        kinds = {one.name: one.default_factory for one in dataclasses.fields(TrainConfig)}
        # The default factory of a section is its class.
        parts = {
            name: _section(kinds[name], content[name], f"{where}: {name}", notes)  # type: ignore[arg-type]
            for name in _SECTIONS
            if name in content
        }
        return _section(TrainConfig, {**content, **parts}, where, notes), notes
    except (ValueError, TypeError, ConfigError) as error:
        raise InputError(f"{where}: not the settings of a run ({error!s:.300})") from error


def _finite(content: dict[str, Any]) -> dict[str, float]:
    numbers = {name: v for name, v in content.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {name: v for name, v in numbers.items() if name != "step" and math.isfinite(v)}


def parse_metrics(data: bytes, where: str) -> tuple[tuple[Record, ...], list[str]]:
    """Records by step, and notes on what does not fit; only the last line may be torn."""
    records: list[Record] = []
    notes: list[str] = []
    lines = data.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not data.endswith(b"\n"):
                notes.append(f"{where}: the last line ({number}) is torn and left out; the run was killed or goes on.")
                continue
            raise InputError(
                f"{where}: line {number} is {line[:60]!r}, expected one JSON object; take the line out"
            ) from error
        step = content.get("step") if isinstance(content, dict) else None
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(
                f'{where}: line {number} has no step ({line[:60]!r}), expected a record like {{"step": 10, '
                '"loss": 3.2}; take the line out'
            )
        if records and step < records[-1].step and not any("goes back" in note for note in notes):
            notes.append(
                f"{where}: line {number} goes back from step {records[-1].step} to {step}: did two runs write?"
            )
        records.append(Record(step=step, values=_finite(content)))
    return tuple(sorted(records, key=lambda record: record.step)), notes


def parse_evaluation(data: bytes, where: str) -> Evaluation:
    """What `slip evaluate` wrote; InputError when it is something else."""
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        rows = [(from_data(row, where), str(row["url"])) for row in content["scores"]]
        # Sets of one name in two places are two sets.
        places: dict[str, set[str]] = {}
        for score, url in rows:
            places.setdefault(score.set, set()).add(url)
        scores = (score if len(places[score.set]) == 1 else replace(score, set=url) for score, url in rows)
        unread = ((str(row["set"]), str(row["error"]), bool(row["missing"])) for row in content["not_evaluated"])
        return Evaluation(
            file=where.rpartition("/")[2],
            step=int(content["step"]),
            weights=str(content["weights"]),
            scores=tuple(scores),
            unread=tuple(Unread(set=name, error=error, missing=missing) for name, error, missing in unread),
            outstanding=tuple(map(str, content["outstanding"])),
            weights_sha256=str(content["weights_sha256"]),
            trained_with={str(name): str(version) for name, version in content["trained_with"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{where}: not a file of this slip evaluate ({error!r:.200}); evaluate again") from error


def _evaluations(url: str, notes: list[str]) -> tuple[Evaluation, ...]:
    """Those that can be read, the oldest weights first; others become notes: a page without them is still right."""
    found = []
    folder = store.join(url, EVALUATION)
    for name in store.list_names(folder):
        if name.endswith(".json"):
            where = store.join(folder, name)
            try:
                evaluation = parse_evaluation(store.read_bytes(where), where)
            except InputError as error:
                notes.append(f"{error}; it is left out.")
                continue
            found.append(evaluation)
            if evaluation.outstanding:
                notes.append(f"{where}: goes on, or was killed; not there yet: {_listed([*evaluation.outstanding])}.")
    return tuple(sorted(found, key=lambda one: (one.step, one.file)))


def _best(url: str, notes: list[str]) -> tuple[int, float] | None:
    where = store.join(url, CHECKPOINTS, "best.json")
    if not store.exists(where):
        return None
    try:
        content = json.loads(store.read_bytes(where))
        return int(content["step"]), float(content["value"])
    except (ValueError, TypeError, KeyError):
        notes.append(f"{where}: does not say which checkpoint is best; it is left out.")
        return None


def read_run(url: str) -> Run:
    """The run at `url`; InputError where there is none."""
    where = store.join(url, CONFIG)
    if not store.exists(where):
        names = store.list_names(url) if not url.endswith((".json", ".jsonl", ".pt")) else []
        found = f"found {_listed(names)}" if names else "there is nothing"
        raise InputError(
            f"{url}: no run ({CONFIG} is missing, {found}); give the folder or URL that slip train wrote to"
        )
    config, notes = parse_config(store.read_bytes(where), where)
    where = store.join(url, METRICS)
    records: tuple[Record, ...] = ()
    if store.exists(where):
        records, said = parse_metrics(store.read_bytes(where), where)
        notes += said
    if not records:
        notes.append(f"{where}: no records yet; they appear as the run goes on (in a store: with its checkpoints).")
    matches = (_CHECKPOINT.fullmatch(name) for name in store.list_names(store.join(url, CHECKPOINTS)))
    return Run(
        url=url,
        name=url.rstrip("/").rpartition("/")[2] or url,
        config=config,
        records=records,
        checkpoints=tuple(sorted(int(match[1]) for match in matches if match)),
        best=_best(url, notes),
        evaluations=_evaluations(url, notes),
        failures=tuple(read_failures(url)),
        notes=tuple(notes),
    )
