"""The table of an evaluation, line by line."""

from __future__ import annotations

import dataclasses

import pytest

from slip.evaluate.table import guessing, table
from tests.evaluation_outcomes import LINEAR, LOST, PETS, SUBJECT, outcome, score

IMAGENET = outcome(
    "imagenet",
    score(
        *("imagenet", "zeroshot", 0.44127),
        pictures=50_000,
        classes=1000,
        interval95=(0.43691, 0.44563),
        counts={"top1": 22_063, "top5": 35_000},
        confusion=None,
    ),
)


def test_a_table_for_people() -> None:
    lines = table(SUBJECT, [IMAGENET, PETS, LOST]).splitlines()
    assert lines == [
        f"{SUBJECT.checkpoint}, step 1200, weights: average; slip with tower vitb16, 224 px, bf16",
        "set                  protocol  metric    value %   95 % interval  top-5 %  guessing %  published %",
        "imagenet             zeroshot  accuracy    44.13  43.69 to 44.56    70.00        0.10         44.1",
        "pets                 zeroshot  accuracy    50.00  15.00 to 85.00                50.00",
        "mean of 2 of 3 sets  zeroshot              47.06",
        "published: SLIP vitb16, YFCC15M, 50 epochs (arXiv 2112.12750)",
        "not found: sun397: not in the catalogue",
    ]


def test_protocols_have_lines_and_means_of_their_own() -> None:
    food = outcome("food101", score("food101", "linear-sgd", 0.25), score("food101", "linear-fast", 1), asked="linear")
    lines = [line.split() for line in table(SUBJECT, [PETS, LINEAR, food]).splitlines()[2:]]
    assert [line[:2] for line in lines[:5]] == [
        ["pets", "zeroshot"],
        ["pets", "linear-sgd"],
        ["pets", "linear-fast"],
        ["food101", "linear-sgd"],
        ["food101", "linear-fast"],
    ]
    # One set alone has no mean.
    assert [line[2:] for line in lines[5:]] == [
        ["2", "sets", "linear-sgd", "37.50"],
        ["2", "sets", "linear-fast", "87.50"],
    ]


def test_sets_of_the_same_name_are_told_apart() -> None:
    other = dataclasses.replace(PETS, url="old/pets")
    firsts = [line.split()[0] for line in table(SUBJECT, [PETS, other, LOST]).splitlines()[2:4]]
    assert firsts == ["s3://b/pets", "old/pets"]


def test_what_went_wrong_stands_below() -> None:
    part = outcome("pets", score("pets", partial="3 of 4 shards"))
    broken = outcome("cars", error="cars/1.tar: cut")
    lines = table(SUBJECT, [part, broken]).splitlines()
    assert lines[-2:] == ["pets: zeroshot is partial: 3 of 4 shards", "cars: not evaluated: cars/1.tar: cut"]
    # With several protocols, which; what is missing is missing for all of them.
    gone = dataclasses.replace(LOST, asked="knn"), outcome("dtd", error="nothing there", missing=True)
    lines = table(SUBJECT, [PETS, LOST, dataclasses.replace(broken, asked="knn"), *gone]).splitlines()
    assert lines[-2:] == [
        "cars (knn): not evaluated: cars/1.tar: cut",
        "not found: sun397, dtd: not in the catalogue",
    ]
    # Nothing but a reason: no heading of an empty table.
    assert table(SUBJECT, [broken]).count("\n") == 2


@pytest.mark.parametrize(
    ("metric", "classes", "expected"),
    [
        ("accuracy", 8, 1 / 8),
        ("mean per class", 10, 1 / 10),
        ("ROC AUC", 2, 0.5),
        ("mean of top-1 and top-5", 700, 3 / 700),
        ("mean of top-1 and top-5", 4, 0.625),
        ("R@1 image to text", 0, None),
    ],
)
def test_what_guessing_gives(metric: str, classes: int, expected: float | None) -> None:
    found = guessing(score("x", metric=metric, classes=classes, confusion=None))
    assert found == (pytest.approx(expected) if expected is not None else None)
