"""Settings as flat lists: all of them, and what differs."""

from __future__ import annotations

import dataclasses

import pytest

from slip.config import TrainConfig
from slip.pages.settings import NOT_THE_RESULT, differing, flat, nearest_recipe, shown
from slip.recipes import recipe, recipes


def test_every_setting_is_there_under_its_option() -> None:
    found = flat(TrainConfig())
    parts = {"data", "model", "objective", "optim", "eval"}
    fields = dataclasses.fields(TrainConfig)
    expected = {one.name for one in fields if one.name not in parts}
    for part in parts:
        expected |= {f"{part}.{one.name}" for one in dataclasses.fields(getattr(TrainConfig(), part))}
    assert set(found) == expected
    assert found["optim.global_batch"] == 4096
    assert set(found) >= NOT_THE_RESULT


def test_only_what_differs_is_listed() -> None:
    one = recipe("demo")
    other = dataclasses.replace(one, seed=3, optim=dataclasses.replace(one.optim, lr=0.1), ledger=True)
    assert differing([one, other, one]) == [
        ("optim.lr", ("0.002", "0.1", "0.002")),
        ("ledger", ("no", "yes", "no")),
        ("seed", ("0", "3", "0")),
    ]
    assert differing([one, one]) == []
    assert differing([one]) == []


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_nearest_to_itself(name: str) -> None:
    assert nearest_recipe(recipe(name)) == (name, {})


def test_a_changed_recipe_is_found_with_its_changes() -> None:
    began = recipe("slip_vitb16_yfcc15m_25ep")
    optim = dataclasses.replace(began.optim, lr=1e-3, global_batch=1024)
    data = dataclasses.replace(began.data, manifest=("s3://b/m.json",), workers=3)
    config = dataclasses.replace(began, optim=optim, data=data, output="x", seed=5)
    name, changes = nearest_recipe(config)
    assert name == "slip_vitb16_yfcc15m_25ep"
    assert changes == {
        "data.manifest": (("data/yfcc15m/manifest.json",), ("s3://b/m.json",)),
        "optim.global_batch": (4096, 1024),
        "optim.lr": (3e-3, 1e-3),
        "seed": (0, 5),
    }


def test_another_objective_is_another_recipe_however_equal_the_rest() -> None:
    clip, slip = recipe("clip_vitb16_yfcc15m_25ep"), recipe("slip_vitb16_yfcc15m_25ep")
    assert nearest_recipe(dataclasses.replace(clip, optim=slip.optim))[0] == "clip_vitb16_yfcc15m_25ep"


def test_values_are_shown_as_people_write_them() -> None:
    assert [shown(value) for value in (None, (), ("a", "b"), (0.9, 0.98), True, 4096, 3e-3, 1e-8, "auto")] == [
        *("none", "none", "a b", "0.9 0.98", "yes", "4,096", "0.003", "1e-08", "auto"),
    ]
