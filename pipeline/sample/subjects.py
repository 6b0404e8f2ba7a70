"""What the embedded sample's pictures show: the words that drawing and captions share.

A `Subject` is one picture's content (object, colour, number, scene). `sample_pictures` draws it and
`sample_captions` talks about it; neither knows the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CLASSNAMES = (
    "sailboat",
    "house",
    "tree",
    "car",
    "umbrella",
    "flower",
    "fish",
    "butterfly",
    "lighthouse",
    "hot air balloon",
)
"""The ten objects; a held-out picture's label is the position in this list."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 42, 40),
    "orange": (238, 128, 28),
    "yellow": (246, 208, 48),
    "green": (58, 150, 66),
    "blue": (44, 98, 196),
    "purple": (126, 62, 160),
    "pink": (240, 132, 170),
    "white": (240, 238, 230),
}

SCENES = ("beach", "meadow", "night", "snow", "city", "desert", "sea", "forest")

# As in real photographs, an object is mostly met in its usual surroundings and colours, but not always: the
# background makes it likely which object is there and does not settle it.
_USUAL_SHARE = 0.7
_USUAL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sailboat": (("sea",), ("white", "blue", "red")),
    "house": (("snow", "meadow"), ("white", "pink", "yellow")),
    "tree": (("forest", "meadow"), ("green", "orange")),
    "car": (("city", "desert"), ("red", "blue", "green")),
    "umbrella": (("beach", "city"), ("purple", "yellow", "pink")),
    "flower": (("meadow",), ("pink", "purple", "red")),
    "fish": (("sea",), ("orange", "green")),
    "butterfly": (("forest",), ("blue", "yellow", "orange")),
    "lighthouse": (("night", "beach"), ("red", "white")),
    "hot air balloon": (("desert", "snow"), ("yellow", "orange", "purple")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What one picture shows."""

    label: int
    """Position of the object in `CLASSNAMES`."""
    colour: str
    count: int
    """How many of the objects are in the picture: 1, 2 or 3."""
    scene: str
    monochrome: bool = False
    """The picture is greyscale: its captions name no colour."""

    @property
    def noun(self) -> str:
        """The object's name in the singular."""
        return CLASSNAMES[self.label]


def draw_subject(rng: random.Random, *, label: int | None = None) -> Subject:
    """A random subject, of the given class if there is one."""
    if label is None:
        label = rng.randrange(len(CLASSNAMES))
    scenes, colours = _USUAL[CLASSNAMES[label]]
    return Subject(
        label=label,
        colour=rng.choice(colours if rng.random() < _USUAL_SHARE else tuple(COLOURS)),
        count=rng.choices((1, 2, 3), weights=(75, 15, 10))[0],
        scene=rng.choice(scenes if rng.random() < _USUAL_SHARE else SCENES),
        monochrome=rng.random() < 0.02,
    )
