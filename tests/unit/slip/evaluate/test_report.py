"""Table and JSON of an evaluation; the interval against the score test it comes from, inverted by bisection."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slip.evaluate.report import SetScore, Subject, Unread, data, table, wilson

SUBJECT = Subject(
    protocol="zeroshot",
    checkpoint="runs/a/checkpoints/step-00001200.pt",
    step=1200,
    weights="average",
    objective="slip",
    tower="vitb16",
    image_size=224,
    precision="bf16",
    versions={"torch": "2.13"},
    trained_with={"torch": "2.12"},
)
FOOD = SetScore(url="s3://b/food101", classes=101, pictures=25_250, top1=15_000, top5=22_222)
PETS = SetScore(url="s3://b/pets/", classes=37, pictures=3, top1=0, top5=1)
LOST = Unread(url="s3://b/sun397", error="s3://b/sun397/classnames.txt: cannot read: there is no such file")


def rejects(share: float, right: int, total: int) -> bool:
    """Whether the two-sided score test at 95 % rejects a share: |found - share| > z * its standard error under it."""
    return abs(right / total - share) > 1.959963984540054 * math.sqrt(share * (1 - share) / total)


def slow_interval(right: int, total: int) -> tuple[float, float]:
    """Where the score test begins to reject, by bisection on both sides of what was found."""
    ends = []
    for outer in (0.0, 1.0):
        kept = right / total
        for _ in range(200):
            middle = (kept + outer) / 2
            kept, outer = (kept, middle) if rejects(middle, right, total) else (middle, outer)
        ends.append(kept)
    return ends[0], ends[1]


@given(st.integers(1, 50_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_what_the_score_test_does_not_reject(counts: tuple[int, int]) -> None:
    assert wilson(*counts) == pytest.approx(slow_interval(*counts), abs=1e-9)


def test_the_interval_published_for_none_of_ten() -> None:
    # Brown, Cai, DasGupta, Statistical Science 16 (2001): [0, 0.278] for 0 of 10.
    low, high = wilson(0, 10)
    assert (low, round(high, 3)) == (0.0, 0.278)
    low, high = 1 - high, 1.0
    assert wilson(10, 10) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("counts", [(1, 0), (-1, 5), (6, 5)])
def test_what_is_no_share_has_no_interval(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is no share"):
        wilson(*counts)


def test_a_table_for_people() -> None:
    lines = table(SUBJECT, [FOOD, PETS, LOST]).splitlines()
    assert lines == [
        f"zeroshot: {SUBJECT.checkpoint}, step 1200, weights: average; slip with tower vitb16, 224 px, bf16",
        "set      pictures  classes  top-1 %   95 % interval  top-5 %  guessing %",
        "food101    25,250      101    59.41  58.80 to 60.01    88.01        0.99",
        "pets            3       37     0.00   0.00 to 56.15    33.33        2.70",
        "sun397: not evaluated: s3://b/sun397/classnames.txt: cannot read: there is no such file",
    ]
    # Nothing but a reason: no heading of an empty table.
    assert table(SUBJECT, [LOST]).count("\n") == 2


def test_sets_of_the_same_name_are_told_apart() -> None:
    other = SetScore(url="old/food101", classes=101, pictures=1, top1=1, top5=1)
    firsts = [line.split()[0] for line in table(SUBJECT, [FOOD, other, PETS]).splitlines()[2:]]
    assert firsts == ["s3://b/food101", "old/food101", "pets"]


def test_exact_counts_for_programs() -> None:
    found = json.loads(json.dumps(data(SUBJECT, [FOOD, LOST])))
    assert (found["checkpoint"], found["step"], found["weights"]) == (SUBJECT.checkpoint, 1200, "average")
    assert (found["versions"], found["trained_with"]) == ({"torch": "2.13"}, {"torch": "2.12"})
    food, lost = found["sets"]
    assert (food["pictures"], food["classes"], food["top1"], food["top5"]) == (25_250, 101, 15_000, 22_222)
    assert food["top1_share"] == 15_000 / 25_250
    assert food["top1_interval95"] == pytest.approx(slow_interval(15_000, 25_250))
    assert lost == {"url": "s3://b/sun397", "error": LOST.error}
