"""Hours and cost of a launch are those of `slip plan`, for all its runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from slip import plan_command
from slip.launch.estimate import estimate_lines
from slip.launch.runs import runs_of
from slip.launch.settings import parse

RECIPE = "clip_vitb16_yfcc15m_25ep"


def lines(*words: str) -> list[str]:
    request = parse(words)
    return estimate_lines(request.config, runs_of(request))


def numbers(line: str) -> list[float]:
    return [float(word.replace(",", "")) for word in re.findall(r"[\d,]+\.?\d*", line)]


@pytest.mark.parametrize("seeds", [(), ("0", "1", "2")])
def test_it_is_the_plan_for_each_run(here: Path, capsys: pytest.CaptureFixture[str], seeds: tuple[str, ...]) -> None:
    assert plan_command.main([RECIPE, "--gpus", "32", "--gpu", "a100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    several = ("--seeds", *seeds) if seeds else ()
    found = lines(RECIPE, "--nodes", "4", "--gpu", "a100", "--price", "2", *several)
    runs = len(seeds) or 1
    assert numbers(found[0])[:2] == [pytest.approx(runs * plan["gpu_hours"], abs=0.1), 32]
    assert numbers(found[1])[0] == pytest.approx(plan["hours"], abs=0.1)
    assert numbers(found[2])[0] == pytest.approx(2 * runs * plan["gpu_hours"], abs=0.01)
    assert ("for each of 3 runs" in found[0]) == bool(seeds)


def test_a_run_that_outlasts_its_job_begins_again(here: Path) -> None:
    assert "begins again" not in lines(RECIPE, "--nodes", "64")[1]
    assert "more than --time-min 60" in lines(RECIPE, "--time-min", "60")[1]


def test_what_is_not_known_is_said(here: Path) -> None:
    assert "are not known" in lines("demo")[0]
    assert lines("demo", "--gpus-per-node", "0") == ["estimate  none: there are no GPUs"]
    assert "unequally" in lines(RECIPE, "--tasks-per-node", "4")[0]
