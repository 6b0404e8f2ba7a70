"""1, 2 and 4 ranks train the same classifiers on labels, and refuse a picture together that one of them cannot read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def by_world(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by world size."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("linear_worker.py")), str(folder)],
        env=env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return {
        world: [json.loads((folder / f"{world}-{rank}.json").read_text()) for rank in range(world)] for world in WORLDS
    }


def test_all_ranks_get_the_same(by_world: dict[int, list[dict[str, Any]]]) -> None:
    for world in WORLDS:
        first, *others = by_world[world]
        assert all(other == first for other in others)


def test_scores_do_not_depend_on_the_number_of_ranks(by_world: dict[int, list[dict[str, Any]]]) -> None:
    alone = by_world[1][0]["scores"]
    assert [score["protocol"] for score in alone] == [
        "linear-sgd",
        "linear-fast",
        "finetune",
        "linear-sgd",
        "linear-fast",
    ]
    assert [score["pictures"] for score in alone] == [33, 33, 33, 3, 3]
    # Neither guessed nor all right, so that a picture too many or too few would show.
    assert 8 < alone[1]["counts"]["top1"] < 33
    for world in WORLDS[1:]:
        assert by_world[world][0]["scores"] == alone


def test_the_head_and_the_losses_do_not_depend_on_it_but_for_rounding(
    by_world: dict[int, list[dict[str, Any]]],
) -> None:
    alone = by_world[1][0]
    assert len(alone["losses"]) == 3
    assert len(set(alone["losses"])) == 3
    for world in WORLDS[1:]:
        assert by_world[world][0]["fast"] == pytest.approx(alone["fast"], rel=1e-4)
        assert by_world[world][0]["head"] == pytest.approx(alone["head"], abs=1e-6)
        assert by_world[world][0]["losses"] == pytest.approx(alone["losses"], abs=1e-5)


def test_a_picture_that_one_rank_cannot_read_all_refuse(by_world: dict[int, list[dict[str, Any]]]) -> None:
    for world in WORLDS:
        for rank in by_world[world]:
            assert len(rank["refused"]) == 3
            assert all(said.startswith("train/9: ") for said in rank["refused"])
