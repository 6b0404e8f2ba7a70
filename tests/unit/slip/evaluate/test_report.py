"""The file of an evaluation: what goes in comes out, what others wrote stays, other files are left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slip.evaluate.report import known_outcomes, merged, to_json
from tests.evaluation_outcomes import LINEAR, LOST, PETS, SUBJECT, outcome, score


def test_outcomes_come_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(to_json(SUBJECT, [PETS, LINEAR, LOST], [("zeroshot", "food101", "food101")]))
    # What was not evaluated is not known.
    assert known_outcomes(str(path), SUBJECT) == [PETS, LINEAR]
    found = json.loads(path.read_text())
    assert (found["checkpoint"], found["step"], found["versions"]) == (SUBJECT.checkpoint, 1200, {"torch": "2.13"})
    assert (found["partial"], found["outstanding"]) == (True, ["zeroshot food101"])
    assert [one["protocol"] for one in found["scores"]] == ["zeroshot", "linear-sgd", "linear-fast"]
    assert found["scores"][0]["counts"] == {"top1": 2, "top5": 4}
    expected = {"asked": "zeroshot", "set": "sun397", "url": "s3://b/sun397", "missing": True}
    assert found["not_evaluated"] == [expected | {"error": "not in the catalogue"}]
    assert json.loads(to_json(SUBJECT, [], []))["partial"] is False


def test_other_weights_and_other_arithmetic_know_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.json"
    assert known_outcomes(str(path), SUBJECT) == []
    path.write_bytes(to_json(SUBJECT, [PETS]))
    assert known_outcomes(str(path), dataclasses.replace(SUBJECT, checkpoint="moved.pt")) == [PETS]
    for other in ({"weights_sha256": "cd" * 32}, {"precision": "fp32"}):
        assert known_outcomes(str(path), dataclasses.replace(SUBJECT, **other)) == []  # type: ignore[arg-type]
        assert "its results are replaced" in caplog.text


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "other"}', '{"format": "slip evaluation 2"}'])
def test_a_file_of_somebody_else_is_not_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=r"x\.json: not a file of this slip evaluate"):
        known_outcomes(str(tmp_path / "x.json"), SUBJECT)


def test_new_outcomes_take_the_place_of_old_ones() -> None:
    better = outcome("pets", score("pets", value=0.75))
    failed = outcome("pets", error="picture 7 is damaged")
    food = outcome("food101", score("food101"))
    assert merged([PETS, LINEAR], [better, food]) == [better, LINEAR, food]
    # What could be measured before stays.
    assert merged([PETS, LINEAR], [failed]) == [PETS, LINEAR]
    assert merged([LOST], [failed]) == [LOST, failed]


def test_what_is_partial_is_not_done() -> None:
    assert PETS.done
    assert not LOST.done
    assert not outcome("pets", score("pets", partial="3 of 4 shards")).done
