"""The work of `slip evaluate`: a checkpoint, its protocols and sets one after the other, and what is kept of each.

In: settings. Out: table, JSON and page. All ranks go through it together; rank 0 alone writes. After every set the file
is written anew, so that whatever ends the command costs one set. A protocol is a module of this package with
`run(trained, set, settings, world=...)` that gives the same Scores on all ranks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
import sys
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import store
from pipeline.errors import ConfigError, RankLostError, YfccError
from slip.checkpoint import versions
from slip.config import ObjectiveConfig
from slip.evaluate.captioned import CaptionedSet, open_captioned
from slip.evaluate.catalogue import Catalogue, load_catalogue, metric_of, open_set, place_of, suite
from slip.evaluate.command import EvaluateConfig, Protocol
from slip.evaluate.encode import in_bf16
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.page import page
from slip.evaluate.published import data_of
from slip.evaluate.report import Key, Outcome, Subject, known_outcomes, merged, to_json
from slip.evaluate.score import Score
from slip.evaluate.table import table
from slip.evaluate.together import of_all, together
from slip.evaluate.trained import Found, Trained, find, load
from slip.lookout import Lookout
from slip.models.model import Model
from slip.world import World, init_world, shutdown

logger = logging.getLogger(__name__)

_NEEDS_TEXT = ("zeroshot", "retrieval")
# Settings that say how something is computed and not what.
_HOW = ("workers", "forward_batch", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One protocol on one set, as it was asked for."""

    asked: Protocol
    name: str
    """Of a set in the catalogue, or where it lies."""
    of_suite: bool
    """Whether it belongs to a suite that goes on without it."""

    @property
    def key(self) -> Key:
        """How it is called before it was opened."""
        return self.asked, self.name.rstrip("/").rpartition("/")[2], self.name


def targets(config: EvaluateConfig) -> list[Target]:
    """What to do, in order: protocol by protocol."""
    found = []
    for asked in config.protocol:
        if asked == "retrieval":
            found += [Target(asked=asked, name=name, of_suite=False) for name in config.captioned]
            continue
        names = {name: word == "paper" for word in config.suite for name in suite(word)}
        found += [Target(asked=asked, name=name, of_suite=of_suite) for name, of_suite in names.items()]
        found += [Target(asked=asked, name=name, of_suite=False) for name in config.sets if name not in names]
    return found


def weights_sha256(model: Model) -> str:
    """Digest of names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _open(target: Target, catalogue: Catalogue) -> LabelledSet | CaptionedSet:
    if target.asked == "retrieval":
        captioned = open_captioned(place_of(target.name, catalogue))
        return dataclasses.replace(captioned, name=target.name) if target.name in catalogue.entries else captioned
    labelled = open_set(target.name, catalogue)
    return dataclasses.replace(labelled, metric=labelled.metric or metric_of(labelled.name, catalogue))


def _settings(target: Target, opened: LabelledSet | CaptionedSet, config: EvaluateConfig) -> dict[str, Any]:
    """What a Score depends on beside weights and pictures, as it comes back from JSON."""
    if isinstance(opened, CaptionedSet):
        said = hashlib.sha256(json.dumps(opened.captions).encode()).hexdigest()
        return {"captions_sha256": said}
    found: dict[str, Any] = {"metric": opened.metric, "classes": len(opened.classnames)}
    if target.asked == "zeroshot":
        words = json.dumps([opened.classnames, opened.templates])
        found["prompts_sha256"] = hashlib.sha256(words.encode()).hexdigest()
    else:
        own = dataclasses.asdict(getattr(config, target.asked))
        found |= {name: value for name, value in own.items() if name not in _HOW}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _run(
    target: Target,
    opened: LabelledSet | CaptionedSet,
    trained: Trained,
    config: EvaluateConfig,
    world: World,
    output: str | None,
) -> list[Score]:
    """The protocol's Scores; what it trains is kept in `output` where the settings name no other place."""
    module = importlib.import_module(f"slip.evaluate.{target.asked}")
    more: dict[str, Any] = {}
    settings: Any = config.reading()
    if target.asked == "knn":
        settings, more = config.knn, {"reading": settings}
    elif target.asked in ("linear", "finetune"):
        settings = getattr(config, target.asked)
        settings = dataclasses.replace(settings, output=settings.output or output)
    scores: list[Score] = module.run(trained, opened, settings, world=world, **more)
    return scores


def _outcome(
    target: Target,
    trained: Trained,
    config: EvaluateConfig,
    world: World,
    *,
    catalogue: Catalogue,
    known: dict[Key, Outcome],
    output: str | None,
) -> Outcome:
    """One protocol on one set, the same on every rank, even where only one of them cannot read it."""
    asked, name, url = target.key
    try:
        opened = together(lambda: _open(target, catalogue))
    except YfccError as error:
        return Outcome(asked=asked, set=name, url=url, settings={}, error=str(error), missing=target.of_suite)
    settings = _settings(target, opened, config)
    outcome = Outcome(asked=asked, set=opened.name, url=opened.url, settings=settings)
    before = known.get(outcome.key)
    if before is not None and before.settings == settings and not config.again:
        logger.info("%s on %s: already evaluated (--again does it again)", asked, opened.name)
        return before
    logger.info("%s on %s", asked, opened.name)
    try:
        return dataclasses.replace(
            outcome, scores=tuple(together(lambda: _run(target, opened, trained, config, world, output)))
        )
    except YfccError as error:
        return dataclasses.replace(outcome, error=str(error))


def _json_url(config: EvaluateConfig, found: Found, trained: Trained) -> str | None:
    """Where the results go."""
    if config.json is not None or found.output is None:
        return config.json
    # The average has the plain name: it is what is evaluated where nothing is said.
    weights = "-model" if trained.weights == "model" and trained.has_average else ""
    return store.join(found.output, "evaluation", f"step-{trained.step:08d}{weights}.json")


def _load(config: EvaluateConfig) -> tuple[Found, Trained]:
    """The network all ranks evaluate, and which checkpoint it is of."""
    # A run that goes on may have a newer one when another rank looks: all take what rank 0 found.
    found: Found = of_all(find(config.checkpoint))[0]
    logger.info("checkpoint %s (%s)", found.url, found.why)
    trained = load(found.url, config.weights)
    wanting = [asked for asked in config.protocol if asked in _NEEDS_TEXT]
    if wanting and not trained.model.has_text:
        raise ConfigError(
            f"--protocol {' '.join(wanting)}: {found.url} was trained with objective {trained.objective.name}, which "
            "has no text tower; give a checkpoint of clip, siglip or slip"
        )
    return found, trained


def _run_settings(output: str | None) -> dict[str, Any]:
    """The run's config.json; {} where nobody says."""
    try:
        found = json.loads(store.read_bytes(store.join(output, "config.json"))) if output is not None else {}
    except (YfccError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _how_trained(output: str | None) -> tuple[float | None, str]:
    """How long the run was to train, and on which of the published data sets."""
    settings = _run_settings(output)
    try:
        return float(settings["optim"]["epochs"]), data_of(settings["data"]["manifest"])
    except (ValueError, TypeError, KeyError):
        return None, data_of(())


def _objective(objective: ObjectiveConfig) -> str:
    """Its name, and SLIP's other terms than the published one."""
    other = objective.name == "slip" and tuple(objective.ssl) != ("simclr",)
    return f"{objective.name} ({', '.join(objective.ssl)})" if other else objective.name


def _subject(found: Found, trained: Trained, world: World) -> Subject:
    epochs, data = _how_trained(found.output)
    return Subject(
        checkpoint=found.url,
        weights_sha256=weights_sha256(trained.model) if world.main_rank else "",
        step=trained.step,
        weights=trained.weights,
        objective=_objective(trained.objective),
        tower=trained.config.tower,
        image_size=trained.config.image_size,
        precision="bf16" if in_bf16(trained.precision, world) else "fp32",
        epochs=trained.epochs if epochs is None else epochs,
        data=data,
        versions=versions(),
        trained_with=trained.versions,
    )


class _Kept:
    """The file of results, on rank 0."""

    def __init__(self, url: str | None, subject: Subject) -> None:
        self._url, self._subject = url, subject

    def known(self) -> list[Outcome]:
        """What it has of these weights."""
        return known_outcomes(self._url, self._subject) if self._url is not None else []

    def write(self, outcomes: list[Outcome], outstanding: list[Key]) -> None:
        """Add to it: what others have written meanwhile stays."""
        if self._url is None:
            return
        together_with = merged(self.known(), outcomes)
        store.write_bytes(self._url, to_json(self._subject, together_with, outstanding))
        html = f"{self._url.removesuffix('.json')}.html"
        store.write_bytes(html, page(self._subject, together_with, outstanding).encode())


def _evaluate_all(config: EvaluateConfig, world: World) -> tuple[Subject, list[Outcome], str | None]:
    found, trained = _load(config)
    subject = _subject(found, trained, world)
    url = _json_url(config, found, trained)
    kept = _Kept(url, subject)
    known = together(lambda: [one for one in kept.known() if one.done] if world.main_rank else [])
    by_key: dict[Key, Outcome] = {one.key: one for one in of_all(known)[0]}
    catalogue = together(lambda: load_catalogue(config.catalogue))
    trained.model.to(world.device)
    outcomes: list[Outcome] = []
    todo = targets(config)
    output = None if url is None else store.parent(url)
    if url is None:
        logger.warning("results go to standard output alone, what is trained is not kept; --json FILE keeps both")
    for number, target in enumerate(todo):
        outcome = _outcome(target, trained, config, world, catalogue=catalogue, known=by_key, output=output)
        outcomes.append(outcome)
        if world.main_rank:
            kept.write(outcomes, [one.key for one in todo[number + 1 :]])
    return subject, outcomes, url


def evaluate(config: EvaluateConfig) -> int:
    """Do all of it; 0, or on rank 0 1 when a set could not be read. Every rank calls it with the same settings."""
    world = init_world()
    with Lookout(world) as lookout:
        try:
            subject, outcomes, url = _evaluate_all(config, world)
        except RuntimeError as error:
            # What a collective says names an address at best.
            lost = lookout.gone()
            if lost is None:
                raise
            raise RankLostError(f"rank {world.rank} cannot go on: {lost}; run the same command again") from error
    shutdown()
    if not world.main_rank:
        # Where one rank ends with an error srun ends the others, and rank 0 is not done.
        return 0
    sys.stdout.write(table(subject, outcomes))
    sys.stdout.flush()
    if url is not None:
        logger.info("results are in %s, and as a page beside it", url)
    failed = any(one.error is not None and not one.missing for one in outcomes)
    return int(failed or not any(one.scores for one in outcomes))
