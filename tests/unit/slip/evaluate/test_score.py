from __future__ import annotations

import json

import pytest

from pipeline.errors import InputError
from slip.evaluate.score import Score, from_data, to_data

SCORE = Score(
    set="pets",
    protocol="knn",
    metric="accuracy",
    value=0.5,
    pictures=4,
    classes=3,
    interval95=(0.1, 0.9),
    counts={"top1": 2},
    confusion=((1, 0, 0), (0, 0, 2), (0, 0, 1)),
    classnames=("a", "b", "c"),
    detail={"neighbours": 20, "temperature": 0.07},
)


def test_a_score_comes_back_from_json() -> None:
    content = json.loads(json.dumps(to_data(SCORE)))
    assert from_data({**content, "url": "s3://b/pets"}, "x.json") == SCORE
    # Of a matrix with a thousand classes hardly a cell is not nought.
    assert content["confusion"] == [[0, 0, 1], [1, 2, 2], [2, 2, 1]]


@pytest.mark.parametrize(
    "change", [{"value": "much"}, {"value": 1.5}, {"confusion": [[3, 0, 1]]}, {"interval95": 1}, {"set": None}]
)
def test_what_is_no_score_is_refused_with_its_place(change: dict[str, object]) -> None:
    content = {**to_data(SCORE), **change}
    if change == {"set": None}:
        del content["set"]
    with pytest.raises(InputError, match=r"^x\.json: not a score"):
        from_data(content, "x.json")
