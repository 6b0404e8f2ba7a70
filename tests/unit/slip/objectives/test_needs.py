from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from slip.config import ModelConfig, ObjectiveConfig, ObjectiveName
from slip.objectives.needs import Needs, needs_of

NONE = Needs(
    views=(),
    caption_views=(),
    pair=None,
    hidden_view=None,
    heads=(),
    bias=False,
    target_views=(),
    scored_views=(),
)


def needs(objective: ObjectiveConfig, *, attentive: bool = False) -> Needs:
    return needs_of(objective, ModelConfig(masking="attentive" if attentive else "none"))


def expected(**fields: object) -> Needs:
    return Needs(**{name: fields.get(name, getattr(NONE, name)) for name in Needs.__slots__})  # type: ignore[arg-type]


ALONE: dict[ObjectiveName, Needs] = {
    "clip": expected(views=("clip",), caption_views=(0,)),
    "siglip": expected(views=("clip",), caption_views=(0,), bias=True),
    "simclr": expected(views=("ssl", "ssl"), pair=(0, 1), heads=("simclr",)),
    "mocov3": expected(views=("ssl", "ssl"), pair=(0, 1), heads=("mocov3",), target_views=(0, 1)),
    "byol": expected(views=("ssl", "ssl"), pair=(0, 1), heads=("byol",), target_views=(0, 1)),
    "mim": expected(views=("ssl",), hidden_view=0, heads=("mim",)),
    "slip": expected(views=("clip", "ssl", "ssl"), caption_views=(0,), pair=(1, 2), heads=("simclr",)),
}


def test_every_objective_is_in_the_table() -> None:
    assert set(ALONE) == set(get_args(ObjectiveName))


@pytest.mark.parametrize("name", ALONE)
def test_what_an_objective_asks_for(name: ObjectiveName) -> None:
    assert needs(ObjectiveConfig(name=name)) == ALONE[name]


SLIP: dict[str, tuple[ObjectiveConfig, Needs]] = {
    "mim": (
        ObjectiveConfig(ssl=("mim",)),
        expected(views=("clip", "ssl"), caption_views=(0,), hidden_view=1, heads=("mim",)),
    ),
    "byol": (
        ObjectiveConfig(ssl=("byol",)),
        expected(views=("clip", "ssl", "ssl"), caption_views=(0,), pair=(1, 2), heads=("byol",), target_views=(1, 2)),
    ),
    "several": (
        ObjectiveConfig(ssl=("mim", "simclr", "mocov3")),
        expected(
            views=("clip", "ssl", "ssl", "ssl"),
            caption_views=(0,),
            pair=(1, 2),
            hidden_view=3,
            heads=("mim", "simclr", "mocov3"),
            target_views=(1, 2),
        ),
    ),
    "strong caption view": (
        ObjectiveConfig(clip_view="ssl"),
        expected(views=("ssl", "ssl", "ssl"), caption_views=(0,), pair=(1, 2), heads=("simclr",)),
    ),
    "shared": (
        ObjectiveConfig(clip_view="shared"),
        expected(views=("ssl", "ssl"), caption_views=(0, 1), pair=(0, 1), heads=("simclr",)),
    ),
    "shared, several": (
        ObjectiveConfig(ssl=("byol", "mim"), clip_view="shared"),
        expected(
            views=("ssl", "ssl", "ssl"),
            caption_views=(0, 1),
            pair=(0, 1),
            hidden_view=2,
            heads=("byol", "mim"),
            target_views=(0, 1),
        ),
    ),
}


@pytest.mark.parametrize("name", SLIP)
def test_what_slip_asks_for(name: str) -> None:
    objective, wanted = SLIP[name]
    assert needs(objective) == wanted


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_strong_view_may_be_matched_with_the_caption(name: ObjectiveName) -> None:
    assert needs(ObjectiveConfig(name=name, clip_view="ssl")).views == ("ssl",)


@pytest.mark.parametrize(
    ("objective", "scored", "momentum"),
    [
        (ObjectiveConfig(name="clip"), (0,), (0,)),
        (ObjectiveConfig(name="simclr"), (0, 1), (0, 1)),
        (ObjectiveConfig(name="slip"), (0, 1, 2), (0, 1, 2)),
        (ObjectiveConfig(name="slip", ssl=("byol", "mim")), (0, 1, 2), (0, 1, 2)),
        (ObjectiveConfig(name="slip", ssl=("mim",)), (0,), (0,)),
        (ObjectiveConfig(name="mim"), (), ()),
    ],
    ids=["clip", "simclr", "slip", "slip-byol-mim", "slip-mim", "mim"],
)
def test_attention_chooses_patches_of_all_views_but_a_hidden_one(
    objective: ObjectiveConfig, scored: tuple[int, ...], momentum: tuple[int, ...]
) -> None:
    found = needs(objective, attentive=True)
    assert found.scored_views == scored
    assert found.momentum_views == momentum
    assert needs(objective).scored_views == ()


def test_views_of_the_ssl_terms_alone() -> None:
    assert needs(ObjectiveConfig(name="slip", ssl=("simclr", "mim"))).own_views == (1, 2, 3)
    assert needs(ObjectiveConfig(name="slip", ssl=("simclr", "mim"), clip_view="shared")).own_views == (2,)
    assert needs(ObjectiveConfig(name="clip")).own_views == ()
    assert needs(ObjectiveConfig(name="simclr")).own_views == (0, 1)


@pytest.mark.parametrize("name", ALONE)
def test_captions_are_read_where_a_view_is_matched_with_them(name: ObjectiveName) -> None:
    assert needs(ObjectiveConfig(name=name)).text == (name in ("clip", "siglip", "slip"))
    assert bool(needs(ObjectiveConfig(name=name)).momentum_views) == (name in ("mocov3", "byol"))


def test_needs_can_be_found_without_torch() -> None:
    script = "import sys, slip.objectives.needs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
