"""The ten objects of the embedded sample, drawn as flat shapes.

Every function draws one object into the square from (-0.5, -0.5) to (0.5, 0.5), y pointing down, with a
`Brush` that turns, mirrors, scales and moves it into the picture. Where the object stands, what is behind it
and what a camera does to it is `sample_pictures`' business.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

_BROWN: Rgb = (112, 74, 44)
_DARK: Rgb = (44, 40, 44)
_CREAM: Rgb = (246, 240, 222)
_GLASS: Rgb = (176, 212, 230)


def shade(colour: Rgb, factor: float) -> Rgb:
    """Darker for a factor under 1, mixed with white above: shade((100, 0, 0), 0.5) -> (50, 0, 0)."""
    if factor <= 1:
        red, green, blue = (int(c * factor) for c in colour)
    else:
        red, green, blue = (int(255 - (255 - c) * (2 - factor)) for c in colour)
    return red, green, blue


@dataclass(frozen=True, slots=True, kw_only=True)
class Brush:
    """Draws in an object's own unit square; `size_px` is the length of its side in the picture."""

    draw: ImageDraw.ImageDraw
    centre_px: Point
    size_px: float
    angle_rad: float = 0.0
    mirrored: bool = False

    def to_px(self, points: Sequence[Point]) -> list[Point]:
        """Where points of the unit square are in the picture."""
        sin, cos = math.sin(self.angle_rad) * self.size_px, math.cos(self.angle_rad) * self.size_px
        sign = -1 if self.mirrored else 1
        x0, y0 = self.centre_px
        return [(x0 + sign * x * cos - y * sin, y0 + sign * x * sin + y * cos) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Rgb, *, outlined: bool = True) -> None:
        """A filled shape with a thin darker outline: white objects stay visible in the snow."""
        pixels = self.to_px(points)
        self.draw.polygon(pixels, fill=fill)
        if outlined:
            width = max(2, round(self.size_px * 0.012))
            self.draw.line([*pixels, pixels[0]], fill=shade(fill, 0.55), width=width, joint="curve")

    def line(self, points: Sequence[Point], fill: Rgb, width: float) -> None:
        """A stroke; its width is in units of the square's side."""
        self.draw.line(self.to_px(points), fill=fill, width=max(2, round(width * self.size_px)), joint="curve")

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Rgb, *, turn: float = 0.0, outlined: bool = True
    ) -> None:
        """A filled ellipse around (x, y), turned by `turn` radians."""
        self.polygon(arc(x, y, rx, ry, 0, 2 * math.pi, turn=turn), fill, outlined=outlined)


def arc(
    x: float, y: float, rx: float, ry: float, start: float, stop: float, *, turn: float = 0.0, steps: int = 28
) -> list[Point]:
    """Points along an ellipse from angle `start` to `stop` (radians, clockwise from the right)."""
    sin, cos = math.sin(turn), math.cos(turn)
    points = []
    for i in range(steps + 1):
        angle = start + (stop - start) * i / steps
        dx, dy = rx * math.cos(angle), ry * math.sin(angle)
        points.append((x + dx * cos - dy * sin, y + dx * sin + dy * cos))
    return points


def _sailboat(b: Brush, colour: Rgb, rng: random.Random) -> None:
    b.line([(0, -0.49), (0, 0.28)], _BROWN, 0.028)
    bulge = rng.uniform(0.03, 0.08)
    b.polygon([(0.025, -0.47), (0.24 + bulge, -0.12), (0.46, 0.2), (0.025, 0.2)], colour)
    b.polygon([(-0.025, -0.38), (-0.025, 0.2), (-0.38, 0.2), (-0.2 - bulge, -0.08)], shade(colour, 1.3))
    for y in (-0.16, 0.03):
        b.line([(0.03, y), (0.24 + (y + 0.2) * 0.4, y)], shade(colour, 0.75), 0.01)
    hull = rng.choice((_BROWN, _DARK, _CREAM))
    b.polygon([(-0.48, 0.26), (0.49, 0.26), (0.36, 0.46), (-0.36, 0.46)], hull)
    b.line([(-0.45, 0.31), (0.45, 0.31)], shade(hull, 1.4 if hull != _CREAM else 0.6), 0.02)


def _house(b: Brush, colour: Rgb, rng: random.Random) -> None:
    roof = rng.choice(((150, 70, 50), (96, 62, 50), (84, 90, 104)))
    b.polygon([(0.18, -0.46), (0.3, -0.46), (0.3, -0.1), (0.18, -0.1)], (140, 96, 84))
    b.polygon([(-0.38, -0.08), (0.38, -0.08), (0.38, 0.48), (-0.38, 0.48)], colour)
    b.polygon([(-0.5, -0.06), (0, -0.49), (0.5, -0.06)], roof)
    b.polygon([(-0.09, 0.16), (0.09, 0.16), (0.09, 0.48), (-0.09, 0.48)], shade(roof, 0.7))
    for x in (-0.25, 0.25):
        b.polygon([(x - 0.09, 0.08), (x + 0.09, 0.08), (x + 0.09, 0.26), (x - 0.09, 0.26)], _GLASS)
        b.line([(x, 0.08), (x, 0.26)], _CREAM, 0.015)
        b.line([(x - 0.09, 0.17), (x + 0.09, 0.17)], _CREAM, 0.015)
    b.ellipse(0, -0.2, 0.07, 0.07, _GLASS)


def _tree(b: Brush, colour: Rgb, rng: random.Random) -> None:
    b.polygon([(-0.06, 0.0), (0.06, 0.0), (0.09, 0.5), (-0.09, 0.5)], _BROWN)
    if rng.random() < 0.3:  # a conifer
        for top, half, light in ((-0.1, 0.4, 0.85), (-0.3, 0.32, 1.0), (-0.5, 0.23, 1.15)):
            b.polygon([(0, top), (half, top + 0.4), (-half, top + 0.4)], shade(colour, light))
        return
    leaves = [(-0.22, -0.02, 0.2), (0.22, -0.02, 0.2), (-0.16, -0.22, 0.2), (0.17, -0.22, 0.2), (0, -0.1, 0.25)]
    for x, y, radius in [*leaves, (0, -0.3, 0.19)]:
        b.ellipse(x, y, radius * 1.05, radius, shade(colour, 0.78), outlined=False)
    for x, y, radius in [*leaves, (0, -0.3, 0.19)]:
        b.ellipse(x - 0.02, y - 0.03, radius * 0.88, radius * 0.85, colour, outlined=False)
    for _ in range(14):
        x, y = rng.uniform(-0.3, 0.25), rng.uniform(-0.42, 0.05)
        b.ellipse(x, y, 0.035, 0.028, shade(colour, rng.choice((0.85, 1.25))), outlined=False)


def _car(b: Brush, colour: Rgb, rng: random.Random) -> None:
    b.polygon([(-0.28, -0.02), (-0.16, -0.25), (0.14, -0.25), (0.3, -0.02)], shade(colour, 0.9))
    b.polygon([(-0.22, -0.03), (-0.13, -0.2), (-0.02, -0.2), (-0.02, -0.03)], _GLASS)
    b.polygon([(0.02, -0.03), (0.02, -0.2), (0.12, -0.2), (0.23, -0.03)], _GLASS)
    body = [(-0.49, 0.05), (-0.42, -0.02), (0.36, -0.02), (0.48, 0.06), (0.5, 0.2), (-0.5, 0.2)]
    b.polygon(body, colour)
    b.line([(-0.47, 0.09), (0.47, 0.09)], shade(colour, 1.4), 0.018)
    b.line([(0, 0.0), (0, 0.18)], shade(colour, 0.6), 0.01)
    b.ellipse(0.45, 0.1, 0.035, 0.035, (255, 240, 170))
    b.ellipse(-0.47, 0.1, 0.025, 0.03, (200, 40, 40))
    for x in (-0.28, 0.28):
        b.ellipse(x, 0.2, 0.125, 0.125, _DARK)
        b.ellipse(x, 0.2, 0.06, 0.06, (190, 190, 196))


def _umbrella(b: Brush, colour: Rgb, rng: random.Random) -> None:
    b.line([(0, -0.44), (0, 0.36)], _BROWN, 0.028)
    b.line(arc(0.07, 0.36, 0.07, 0.1, math.pi, 0), _BROWN, 0.028)
    b.line([(0, -0.5), (0, -0.4)], _DARK, 0.02)
    edges = [-0.5, -0.3, -0.1, 0.1, 0.3, 0.5]
    other = rng.choice((shade(colour, 1.35), shade(colour, 0.75), _CREAM))
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        scallop = arc((left + right) / 2, 0.06, (right - left) / 2, 0.06, 0, -math.pi, steps=8)
        b.polygon([*scallop, *_panel(left, right)], colour if i % 2 == 0 else other)


def _panel(left: float, right: float) -> list[Point]:
    """The curved sides of one panel of an umbrella, from its left foot over the top to its right foot."""
    angles = [math.pi / 2 * i / 10 for i in range(11)]
    up = [(left * math.cos(a), 0.06 - 0.48 * math.sin(a)) for a in angles]
    down = [(right * math.cos(a), 0.06 - 0.48 * math.sin(a)) for a in reversed(angles)]
    return up + down


def _flower(b: Brush, colour: Rgb, rng: random.Random) -> None:
    green = (64, 130, 58)
    b.line([(0, -0.1), (0.02, 0.2), (0, 0.5)], green, 0.04)
    b.ellipse(0.14, 0.3, 0.14, 0.05, green, turn=-0.5)
    b.ellipse(-0.13, 0.38, 0.13, 0.05, green, turn=0.5)
    petals = rng.choice((6, 7, 8))
    start = rng.uniform(0, math.pi)
    for i in range(petals):
        angle = start + 2 * math.pi * i / petals
        x, y = 0.2 * math.cos(angle), -0.15 + 0.2 * math.sin(angle)
        b.ellipse(x, y, 0.165, 0.095, colour if i % 2 else shade(colour, 1.12), turn=angle)
    middle = (120, 78, 30) if colour[0] > 200 and colour[1] > 160 and colour[2] < 120 else (250, 206, 50)
    b.ellipse(0, -0.15, 0.1, 0.1, middle)


def _fish(b: Brush, colour: Rgb, rng: random.Random) -> None:
    b.polygon([(0.24, 0), (0.5, -0.25), (0.43, 0), (0.5, 0.25)], shade(colour, 0.8))
    b.polygon([(-0.16, -0.2), (0.02, -0.38), (0.2, -0.14)], shade(colour, 0.85))
    b.polygon([(-0.05, 0.2), (0.1, 0.34), (0.14, 0.15)], shade(colour, 0.85))
    b.ellipse(-0.1, 0, 0.4, 0.25, colour)
    for x in (-0.1, 0.03, 0.16) if rng.random() < 0.6 else ():
        half = 0.21 * math.sqrt(1 - ((x + 0.1) / 0.4) ** 2)
        b.line([(x, -half), (x + 0.03, 0), (x, half)], shade(colour, 1.5), 0.04)
    b.line(arc(-0.2, 0, 0.1, 0.2, -1.1, 1.1, steps=10), shade(colour, 0.6), 0.014)
    b.ellipse(-0.34, -0.06, 0.05, 0.05, (255, 255, 255))
    b.ellipse(-0.35, -0.06, 0.025, 0.025, _DARK)
    b.line([(-0.49, 0.05), (-0.4, 0.08)], shade(colour, 0.5), 0.014)


def _butterfly(b: Brush, colour: Rgb, rng: random.Random) -> None:
    spot = rng.choice((_CREAM, _DARK, shade(colour, 1.5)))
    for side in (-1, 1):
        b.ellipse(side * 0.2, 0.2, 0.2, 0.13, shade(colour, 0.8), turn=side * 0.9)
        b.ellipse(side * 0.27, -0.17, 0.28, 0.19, colour, turn=-side * 0.65)
        b.ellipse(side * 0.35, -0.26, 0.075, 0.06, spot, turn=-side * 0.65)
        b.ellipse(side * 0.21, -0.08, 0.05, 0.04, spot)
        b.ellipse(side * 0.22, 0.24, 0.05, 0.05, spot)
        b.line([(0, -0.3), (side * 0.07, -0.42), (side * 0.14, -0.47)], _DARK, 0.014)
    b.ellipse(0, 0.0, 0.035, 0.3, _DARK)
    b.ellipse(0, -0.29, 0.045, 0.045, _DARK)


def _lighthouse(b: Brush, colour: Rgb, rng: random.Random) -> None:
    rock = (104, 98, 96)
    b.polygon([(-0.42, 0.5), (-0.32, 0.36), (-0.1, 0.4), (0.14, 0.34), (0.34, 0.4), (0.44, 0.5)], rock)
    stripes = rng.choice((4, 5, 6))
    other: Rgb = _CREAM if min(colour) < 200 else (200, 50, 44)
    for i in range(stripes):
        y0, y1 = (-0.22 + 0.62 * j / stripes for j in (i, i + 1))
        h0, h1 = (0.115 + 0.1 * (y + 0.22) for y in (y0, y1))
        b.polygon([(-h0, y0), (h0, y0), (h1, y1), (-h1, y1)], other if i % 2 else colour)
    b.polygon([(-0.17, -0.26), (0.17, -0.26), (0.17, -0.21), (-0.17, -0.21)], _DARK)
    b.polygon([(-0.085, -0.38), (0.085, -0.38), (0.085, -0.26), (-0.085, -0.26)], (255, 236, 150))
    b.polygon([(-0.12, -0.375), (0, -0.5), (0.12, -0.375)], shade(colour, 0.85))
    b.line([(0, -0.38), (0, -0.26)], _DARK, 0.015)
    b.polygon([(-0.035, 0.28), (0.035, 0.28), (0.035, 0.4), (-0.035, 0.4)], _DARK)


def _balloon(b: Brush, colour: Rgb, rng: random.Random) -> None:
    for x in (-0.07, 0.07):
        b.line([(x * 2, 0.16), (x, 0.38)], _BROWN, 0.012)
    other = rng.choice((_CREAM, shade(colour, 1.4), shade(colour, 0.7)))
    for i, half in enumerate((0.4, 0.27, 0.13)):  # outer to inner: the gores of the envelope
        skirt = half * 0.38
        points = [*arc(0, -0.13, half, 0.37, math.pi * 0.94, math.pi * 2.06), (skirt, 0.22), (-skirt, 0.22)]
        b.polygon(points, other if i % 2 else colour)
    b.polygon([(-0.08, 0.38), (0.08, 0.38), (0.065, 0.5), (-0.065, 0.5)], (150, 104, 60))
    b.line([(-0.08, 0.42), (0.08, 0.42)], _BROWN, 0.012)


OBJECTS: tuple[Callable[[Brush, Rgb, random.Random], None], ...] = (
    _sailboat,
    _house,
    _tree,
    _car,
    _umbrella,
    _flower,
    _fish,
    _butterfly,
    _lighthouse,
    _balloon,
)
"""One function per entry of `sample_subjects.CLASSNAMES`, in its order."""
