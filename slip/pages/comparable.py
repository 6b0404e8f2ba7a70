"""Whether runs can be compared: other data, another batch, other lengths, said in sentences.

In: runs with what is known of their data. Out: warnings, the weightiest first. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slip.pages.run_data import DataFacts
from slip.pages.run_files import Run
from slip.pages.scores import answers, ordered
from slip.pages.settings import shown

# Runs whose samples differ by less have the same length for a reader of curves.
_LENGTH = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of the runs of a page."""

    label: str
    """A name that no other run of the page has."""
    run: Run
    data: DataFacts


def labels(urls: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart: ["a/x/1", "a/y/1"] -> ["x/1", "y/1"]."""
    parts = [url.rstrip("/").split("/") for url in urls]
    for length in range(1, max(map(len, parts), default=0) + 1):
        found = ["/".join(one[-length:]) for one in parts]
        if len(set(found)) == len(set(urls)):
            return found
    return list(urls)


def _groups(runs: Sequence[Compared], value: Callable[[Compared], str]) -> dict[str, list[str]]:
    """Labels by value."""
    found: dict[str, list[str]] = {}
    for one in runs:
        found.setdefault(value(one), []).append(one.label)
    return found


def _said(groups: dict[str, list[str]]) -> str:
    """{"4096": ["a", "b"], "64": ["c"]} -> "4096 (a, b), 64 (c)"."""
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())


def _data_warnings(runs: Sequence[Compared]) -> list[str]:
    known = [one for one in runs if one.data.digest is not None]
    found = []
    digests = _groups(known, lambda one: f"{'+'.join(one.data.names) or 'data'} {(one.data.digest or '')[:12]}")
    if len({one.data.digest for one in known}) > 1:
        found.append(f"Other data: {_said(digests)}. Differences may be the data's.")
    unknown = _groups([one for one in runs if one.data.digest is None and len(runs) > 1], lambda one: one.data.source)
    return found + [
        f"Whether {', '.join(names)} saw the data of the others is not known: {source}."
        for source, names in unknown.items()
    ]


def _score_warnings(runs: Sequence[Compared]) -> list[str]:
    all_answers = [(one.label, answers(one.run)) for one in runs]
    found = []
    for key in ordered(key for _, known in all_answers for key in known):
        counts = {label: known[key].score.pictures for label, known in all_answers if key in known}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count:,} in {label}" for label, count in counts.items())
            found.append(f"{key.set}, {key.protocol_name}: measured on different numbers of pictures ({said}).")
    # A protocol with several metrics says it once.
    return list(dict.fromkeys(found))


def warnings(runs: Sequence[Compared]) -> list[str]:
    """Why numbers of these runs may not be comparable; [] where nothing speaks against it."""
    found = _data_warnings(runs)
    batches = _groups(runs, lambda one: shown(one.run.config.optim.global_batch))
    if len(batches) > 1:
        found.append(
            f"Other global batch: {_said(batches)}. A contrastive loss rises with the batch, and a step is not the "
            "same work: compare accuracies, over samples."
        )
    objectives = _groups(runs, lambda one: "+".join([one.run.config.objective.name, *_ssl(one.run)]))
    if len(objectives) > 1:
        found.append(f"Other objectives: {_said(objectives)}. Total losses are different sums: compare their terms.")
    gathers = _groups(runs, lambda one: one.run.config.objective.gather)
    if len(gathers) > 1:
        found.append(
            f"Other gathering of embeddings: {_said(gathers)}. On several ranks paper's gradient is about half of "
            "exact's."
        )
    sets = _groups(
        [one for one in runs if one.run.points("zeroshot/top1")], lambda one: shown(one.run.config.eval.zeroshot)
    )
    if len(sets) > 1:
        found.append(f"Zero-shot in training was on other sets: {_said(sets)}.")
    samples = [one.run.step * one.run.config.optim.global_batch for one in runs]
    if samples and max(samples) - min(samples) > _LENGTH * max(samples):
        said = ", ".join(f"{one.label} {count:,}" for one, count in zip(runs, samples, strict=True))
        found.append(f"The runs have seen different numbers of samples: {said}.")
    return found + _score_warnings(runs)


def _ssl(run: Run) -> tuple[str, ...]:
    return run.config.objective.ssl if run.config.objective.name == "slip" else ()
