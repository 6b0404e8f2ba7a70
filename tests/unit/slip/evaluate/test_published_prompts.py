"""Published class names, prompts and metrics against what is known of them from elsewhere."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from slip.evaluate import published_prompts as module
from slip.evaluate.published_prompts import KNOWN, PAPER, published_prompts

# Templates and classes per set, as counted in labels.json and templates.json of github.com/facebookresearch/SLIP.
COUNTS = {
    "food101": (1, 101),
    "cifar10": (18, 10),
    "cifar100": (18, 100),
    "birdsnap": (1, 500),
    "cub200": (1, 200),
    "sun397": (2, 397),
    "cars": (8, 196),
    "aircraft": (2, 100),
    "dtd": (8, 47),
    "pets": (1, 37),
    "caltech101": (34, 102),
    "flowers": (1, 102),
    "mnist": (1, 10),
    "fer2013": (6, 7),
    "stl10": (2, 10),
    "eurosat": (3, 10),
    "resisc45": (18, 45),
    "gtsrb": (3, 43),
    "kitti_distance": (1, 4),
    "country211": (5, 211),
    "patch_camelyon": (1, 2),
    "ucf101_frames": (48, 101),
    "kinetics700_frames": (28, 700),
    "clevr_counts": (1, 8),
    "hateful_memes": (1, 2),
    "rendered_sst2": (1, 2),
    "voc2007": (1, 20),
    "imagenet": (7, 1000),
}
METRICS = {
    **dict.fromkeys(("aircraft", "pets", "caltech101", "flowers"), "mean per class"),
    "kinetics700_frames": "top1 top5 mean",
    "hateful_memes": "roc auc",
}
# Two pairs of ImageNet's classes were published under one name.
DOUBLED = {"imagenet": {"missile", "sunglasses"}}


def test_all_sets_are_there_and_nothing_else() -> None:
    assert sorted(KNOWN) == sorted(COUNTS)
    assert len(PAPER) == len(set(PAPER)) == 26
    files = {path.stem for path in (Path(module.__file__).parent / "prompts").glob("*.json")}
    assert files == set(KNOWN)
    assert published_prompts("colours") is None
    assert published_prompts("../prompts/cifar10") is None


@pytest.mark.parametrize("name", list(COUNTS))
def test_counts_and_metrics_are_the_published(name: str) -> None:
    found = published_prompts(name)
    assert found is not None
    assert (len(found.templates), len(found.classnames)) == COUNTS[name]
    assert found.metric == METRICS.get(name, "accuracy")
    assert "facebookresearch/SLIP" in found.source
    assert len(set(found.templates)) == len(found.templates)
    for template in found.templates:
        assert template.count("{c}") == 1
        assert "{}" not in template
    names = Counter(name for names in found.classnames for name in names)
    assert {name for name, count in names.items() if count > 1} == DOUBLED.get(name, set())
    assert all(name == name.strip() and name for name in names)
    assert all(names for names in found.classnames)
    assert any(len(names) > 1 for names in found.classnames) == (name == "fer2013")


def test_imagenets_names_are_open_clips() -> None:
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations is not None
    # The module alone: its package would import torch.
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", path)
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    found = published_prompts("imagenet")
    assert found is not None
    assert [names[0] for names in found.classnames] == list(theirs.IMAGENET_CLASSNAMES)
    # The 7 published prompts are the ones CLIP's authors found best, which open_clip has too.
    ours = {template.replace("{c}", "x") for template in found.templates}
    assert ours == {template("x") for template in theirs.SIMPLE_IMAGENET_TEMPLATES}
