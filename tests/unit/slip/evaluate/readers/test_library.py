"""torchvision's sets: classes by their names, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from slip.evaluate.published_prompts import published_prompts
from slip.evaluate.readers import library
from slip.evaluate.readers.classes import Wanted
from slip.evaluate.readers.library import open_library


def write_textures(root: Path, names: list[str]) -> str:
    """DTD in the layout of dtd-r1.0.1.tar.gz (robots.ox.ac.uk/~vgg/data/dtd), a picture per class and split."""
    base = root / "dtd/dtd"
    (base / "labels").mkdir(parents=True)
    for value, split in enumerate(("train", "val", "test")):
        lines = []
        for name in names:
            path = base / f"images/{name}/{name}_{split}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 3), value, np.uint8)).save(path)
            lines.append(f"{name}/{path.name}")
        (base / f"labels/{split}1.txt").write_text("\n".join(lines) + "\n")
    return f"torchvision:DTD:{root}"


def test_pictures_are_decoded_and_classes_named(tmp_path: Path) -> None:
    found = open_library(write_textures(tmp_path, ["woven", "banded"]), Wanted(name="x"))
    assert found.classnames == (("banded",), ("woven",))
    by_split = {name: [picture for _, picture in part.share(0, 1)] for name, part in found.splits.items()}
    assert [picture.label for picture in by_split["test"]] == [1, 0]
    assert np.array_equal(by_split["test"][0].image, np.full((2, 3, 3), 2))
    assert np.array_equal(by_split["train"][1].image, np.zeros((2, 3, 3)))


def test_the_split_may_be_said(tmp_path: Path) -> None:
    url = write_textures(tmp_path, ["woven", "banded"])
    found = open_library(url, Wanted(name="x", splits={"test": "val"}))
    assert np.array_equal(found.splits["test"][0].image, np.ones((2, 3, 3)))


def test_a_wrong_number_of_classes_is_an_error(tmp_path: Path) -> None:
    published = published_prompts("dtd")
    assert published is not None
    with pytest.raises(InputError, match="2 classes, but dtd has 47 class names"):
        open_library(write_textures(tmp_path, ["woven", "banded"]), Wanted(name="dtd", classnames=published.classnames))


@pytest.mark.parametrize(
    ("name", "published", "label", "expected"),
    [
        ("FER2013", "fer2013", 4, ("sad", "depressed")),
        ("FER2013", "fer2013", 6, ("neutral", "bored")),
        ("CLEVRClassification", "clevr_counts", 3, ("3",)),
        ("CLEVRClassification", "clevr_counts", 10, ("10",)),
        ("PCAM", "patch_camelyon", 1, ("lymph node containing metastatic tumor tissue",)),
    ],
)
def test_labels_without_names_mean_what_their_source_says(
    monkeypatch: pytest.MonkeyPatch, name: str, published: str, label: int, expected: tuple[str, ...]
) -> None:
    """FER2013: kaggle.com/c/challenges-in-representation-learning; CLEVR: the number of objects, from 3 to 10."""
    data = [(Image.new("RGB", (2, 2)), label), (Image.new("RGB", (2, 2)), 99)]
    monkeypatch.setattr(library, "_opened", lambda *_: data)
    prompts = published_prompts(published)
    assert prompts is not None
    found = open_library(f"torchvision:{name}:/x", Wanted(name=published, classnames=prompts.classnames))
    assert found.classnames[found.splits["test"][0].label] == expected
    assert sorted(found.classnames) == sorted(prompts.classnames)
    with pytest.raises(InputError, match=rf"torchvision:{name}:/x test#1: label "):
        found.splits["test"][1]


def test_classes_nobody_names_need_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_opened", lambda *_: [])
    with pytest.raises(InputError, match="torchvision does not name its classes"):
        open_library("torchvision:PCAM:/x", Wanted(name="x"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("torchvision:DTD:{root}", r"torchvision cannot read it there .* download=True\)"),
        ("torchvision:DTD", "expected torchvision:NAME:FOLDER"),
        ("torchvision:FakeData:{root}", "expected torchvision:NAME:FOLDER with one of these names: CIFAR10, "),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_library(url.format(root=tmp_path), Wanted(name="x"))
