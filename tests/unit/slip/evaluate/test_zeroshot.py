"""Zero-shot evaluation against a count made one picture at a time, and against open_clip's own code."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError
from slip.config import ModelConfig, ObjectiveConfig
from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD, evaluation_view
from slip.data.tokenizer import Tokenizer
from slip.evaluate.encode import decode_picture
from slip.evaluate.labelled import LabelledPicture, LabelledSet
from slip.evaluate.settings import Reading
from slip.evaluate.trained import Trained
from slip.evaluate.zeroshot import evaluate_zeroshot, run
from slip.interchange import open_clip_out
from slip.interchange.about import Export
from slip.models.model import Model
from slip.models.registry import build_model
from slip.torchvision_compat import import_torchvision
from slip.world import World
from tests.coloured_pictures import ALONE, Listed
from tests.tiny_data import COLOURS, colour_of, picture

CONFIG = ModelConfig(tower="tiny", image_size=16, context_length=16, embed_dim=32)
NAMES = (*((name,) for name in COLOURS), ("dog", "hound", "puppy"), ("boat",), ("seven geese", "geese"), ("night",))


def labelled(count: int, *, names: tuple[tuple[str, ...], ...] = NAMES) -> LabelledSet:
    """Coloured pictures under labels that have little to do with them; some classes have several names."""
    pictures = [
        LabelledPicture(name=f"p{i}", image=picture(colour_of(i), i), label=i // 3 % len(names)) for i in range(count)
    ]
    return LabelledSet(
        name="things",
        url="memory/things",
        classnames=names,
        templates=("a {c} picture", "this is {c}, {c}"),
        splits={"test": Listed(pictures)},
    )


class FakeModel(nn.Module):
    """Embeds pictures by a random projection of their mean colours, captions by a random table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.table = torch.randn(49408, 6, generator=generator)
        self.projection = torch.randn(3, 6, generator=generator)
        self.modes: list[bool] = []

    def encode_image(self, image_B3SS: Tensor) -> Tensor:
        self.modes.append(self.training)
        return image_B3SS.mean(dim=(2, 3)) @ self.projection * 7

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        self.modes.append(self.training)
        weights = (tokens_BL > 0).float() * torch.arange(1, tokens_BL.shape[1] + 1)
        return (self.table[tokens_BL] * weights[:, :, None]).sum(dim=1)


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def slow_scores(model: FakeModel, found: LabelledSet) -> list[list[float]]:
    """Of each picture the score of every class."""
    tokenizer = Tokenizer(CONFIG.context_length)
    weights = []
    for names in found.classnames:
        texts = [template.replace("{c}", name) for name in names for template in found.templates]
        rows = [unit(model.encode_text(torch.from_numpy(tokenizer([text])))[0].tolist()) for text in texts]
        weights.append(unit([sum(column) / len(rows) for column in zip(*rows, strict=True)]))
    scores = []
    for _, one in found.splits["test"].share(0, 1):
        pixels = evaluation_view(decode_picture(one), CONFIG.image_size).astype(np.float64) / 255
        pixels = (pixels - IMAGENET_MEAN) / IMAGENET_STD
        image = model.encode_image(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0].tolist()
        scores.append([sum(a * b for a, b in zip(unit(image), weight, strict=True)) for weight in weights])
    return scores


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_counts_are_those_made_by_hand(batch: int) -> None:
    found, model = labelled(24), FakeModel()
    scores = slow_scores(model, found)
    labels = [one.label for _, one in found.splits["test"].share(0, 1)]
    places = [sum(s > row[label] for s in row) for row, label in zip(scores, labels, strict=True)]
    model.modes.clear()
    model.train()
    score = evaluate_zeroshot(
        cast(Model, model), found, CONFIG, world=ALONE, reading=Reading(batch=batch, workers=2), metric=None
    )
    assert (score.set, score.protocol, score.metric) == ("things", "zeroshot", "accuracy")
    assert (score.pictures, score.classes, score.detail["prompts"]) == (24, 8, 22)
    assert score.counts == {"top1": sum(p < 1 for p in places), "top5": sum(p < 5 for p in places)}
    assert 0 < score.counts["top1"] < score.counts["top5"] < 24
    assert score.value == score.counts["top1"] / 24
    by_hand = [[0] * 8 for _ in NAMES]
    for row, label in zip(scores, labels, strict=True):
        by_hand[label][row.index(max(row))] += 1
    assert score.confusion == tuple(map(tuple, by_hand))
    assert not any(model.modes)
    assert model.training


def test_ranks_together_count_every_picture_once() -> None:
    found, model = labelled(11), cast(Model, FakeModel())
    reading = Reading(batch=4, workers=1)
    whole = evaluate_zeroshot(model, found, CONFIG, world=ALONE, reading=reading, metric=None)
    # Without a process group nothing is gathered: each call gives its rank's counts.
    worlds = [World(rank=rank, world_size=3, local_rank=0, device=torch.device("cpu")) for rank in range(3)]
    parts = [evaluate_zeroshot(model, found, CONFIG, world=one, reading=reading, metric=None) for one in worlds]
    assert sum(part.pictures for part in parts) == whole.pictures == 11
    assert sum(part.counts["top1"] for part in parts) == whole.counts["top1"]


def test_two_classes_are_judged_by_the_margin_where_the_set_wants_it() -> None:
    found, model = dataclasses.replace(labelled(20, names=NAMES[:2]), metric="roc auc"), FakeModel()
    scores = slow_scores(model, found)
    labels = [one.label for _, one in found.splits["test"].share(0, 1)]
    margins = [row[1] - row[0] for row in scores]
    pairs = [
        (a > b)
        for a, x in zip(margins, labels, strict=True)
        if x
        for b, y in zip(margins, labels, strict=True)
        if not y
    ]
    score = evaluate_zeroshot(
        cast(Model, model), found, CONFIG, world=ALONE, reading=Reading(batch=7, workers=1), metric=None
    )
    assert score.metric == "ROC AUC"
    assert score.value == pytest.approx(sum(pairs) / len(pairs))
    with pytest.raises(InputError, match="8 classes, but ROC AUC needs 2"):
        evaluate_zeroshot(
            cast(Model, model),
            dataclasses.replace(labelled(20), metric="roc auc"),
            CONFIG,
            world=ALONE,
            reading=Reading(batch=7, workers=1),
            metric=None,
        )


@functools.cache
def trained(name: str) -> Trained:
    """Not trained, but its weights large enough that what it sees decides what it says."""
    objective = ObjectiveConfig(name=name)  # type: ignore[arg-type]
    model, draw = build_model(CONFIG, objective, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return Trained(
        model=model.eval(),
        config=CONFIG,
        objective=objective,
        weights="model",
        has_average=False,
        precision="fp32",
        step=1,
        versions={},
        data_sha256=None,
    )


def test_open_clip_says_the_same_of_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network, its tokenizer, its classifier and torchvision's transforms, from files to classes."""
    ours = trained("clip")
    open_clip_out.write(Export(trained=ours, checkpoint="step-00000001.pt"), tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__(open_clip_out.tower_name(CONFIG))
    import_torchvision()
    import open_clip
    from torchvision import transforms

    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    single = tuple(names[:1] for names in NAMES)
    found = labelled(60, names=single)
    weights = open_clip.build_zero_shot_classifier(
        theirs,
        open_clip.SimpleTokenizer(context_length=CONFIG.context_length),
        classnames=[names[0] for names in single],
        templates=[lambda c, t=template: t.replace("{c}", c) for template in found.templates],
    )
    view = transforms.Compose(
        [
            transforms.Resize(16),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    pictures = torch.stack([view(decode_picture(one)) for _, one in found.splits["test"].share(0, 1)])
    with torch.no_grad():
        predicted = (theirs.encode_image(pictures, normalize=True) @ weights).argmax(dim=1).tolist()
    by_hand = [[0] * len(single) for _ in single]
    for number, said in enumerate(predicted):
        by_hand[found.splits["test"][number].label][said] += 1
    assert len(set(predicted)) > 1

    (score,) = run(ours, found, Reading(batch=16, workers=2), world=ALONE)
    assert score.confusion == tuple(map(tuple, by_hand))
    sys.modules.pop(open_clip_out.tower_name(CONFIG))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero-shot needs a text tower, which objective simclr has not"):
        run(trained("simclr"), labelled(2), Reading(), world=ALONE)
    without = dataclasses.replace(labelled(2), templates=())
    with pytest.raises(InputError, match="memory/things: no prompts"):
        run(trained("clip"), without, Reading(), world=ALONE)
    empty = dataclasses.replace(labelled(2), splits={"test": Listed([])})
    with pytest.raises(InputError, match=r"memory/things: .*has no test split"):
        run(trained("clip"), empty, Reading(workers=1), world=ALONE)
