"""Draws one photograph of the embedded sample: a subject in, the bytes of a JPEG out.

A picture is a scene, one to three objects in front of it, and a camera: light, blur, grain, size, JPEG
quality, and now and then a file that is progressive, greyscale, CMYK or carries EXIF. The same arguments
give the same bytes (with the same Pillow). These are drawings that stand in for photographs.
"""

from __future__ import annotations

import functools
import io
import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from pipeline.sample.objects import OBJECTS, Brush, Rgb, shade
from pipeline.sample.subjects import COLOURS, Subject

# (width, height): the long side is 240 to 500 pixels; 500 is the size of the files YFCC100M's URLs name.
_ASPECTS = ((4, 3), (4, 3), (4, 3), (3, 2), (3, 2), (3, 4), (3, 4), (2, 3), (1, 1), (16, 9))
PLACEHOLDER_SIZE = (500, 374)
"""The size of Flickr's picture for removed photographs; no picture of the sample has it."""

_Draw = ImageDraw.ImageDraw
_GRAIN_SIDE = 1024


@functools.cache
def _grain() -> npt.NDArray[np.float32]:
    """One large piece of sensor noise; a picture takes a random window of it, which is faster than fresh noise."""
    rng = np.random.Generator(np.random.PCG64(20140625))
    return rng.standard_normal((_GRAIN_SIDE, _GRAIN_SIDE, 3), dtype=np.float32)


def _gradient(canvas: Image.Image, top: Rgb, bottom: Rgb, y0: float, y1: float) -> None:
    """Fill the rows from y0 to y1 (shares of the height) with a vertical gradient."""
    width, height = canvas.size
    a, b = round(y0 * height), round(y1 * height)
    if b > a:
        ends = Image.fromarray(np.array([[top], [bottom]], dtype=np.uint8))
        strip = ends.resize((1, b - a), Image.Resampling.BILINEAR)
        canvas.paste(strip.resize((width, b - a), Image.Resampling.NEAREST), (0, a))


def _hills(draw: _Draw, rng: random.Random, size: tuple[int, int], base: float, rise: float, colour: Rgb) -> None:
    """A wavy skyline around the height `base`, filled down to the bottom."""
    width, height = size
    phase, waves = rng.uniform(0, 6.3), rng.uniform(0.7, 2.2)
    xs = [width * i / 24 for i in range(25)]
    ys = [height * (base + rise * math.sin(phase + waves * 6.3 * x / width)) for x in xs]
    draw.polygon([*zip(xs, ys, strict=True), (width, height), (0, height)], fill=colour)


def _dots(
    draw: _Draw, rng: random.Random, box: tuple[float, float, float, float], fills: list[Rgb], count: int, radius: float
) -> None:
    """Clutter: `count` small discs in a box given in pixels."""
    x0, y0, x1, y1 = box
    for _ in range(count):
        x, y, r = rng.uniform(x0, x1), rng.uniform(y0, y1), radius * rng.uniform(0.5, 1.3)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(fills))


def _clouds(draw: _Draw, rng: random.Random, size: tuple[int, int], horizon: float) -> None:
    width, height = size
    for _ in range(rng.choice((0, 1, 2, 3))):
        x, y, s = rng.uniform(0, width), rng.uniform(0.05, horizon * 0.6) * height, rng.uniform(0.05, 0.1) * width
        for dx, dy, r in ((-1.2, 0.2, 0.7), (0, -0.2, 1.0), (1.1, 0.1, 0.8), (0.3, 0.35, 0.9)):
            box = (x + (dx - r) * s, y + (dy - r * 0.7) * s, x + (dx + r) * s, y + (dy + r * 0.7) * s)
            draw.ellipse(box, fill=(255, 255, 255, 105))


def _sun(draw: _Draw, rng: random.Random, size: tuple[int, int], colour: tuple[int, int, int, int]) -> None:
    x, y, r = rng.uniform(0.1, 0.9) * size[0], rng.uniform(0.08, 0.25) * size[1], rng.uniform(0.03, 0.07) * max(size)
    draw.ellipse((x - 1.6 * r, y - 1.6 * r, x + 1.6 * r, y + 1.6 * r), fill=(*colour[:3], 60))
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _beach(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    horizon = rng.uniform(0.3, 0.45)
    _gradient(canvas, (112, 178, 230), (206, 230, 242), 0, horizon)
    _clouds(draw, rng, canvas.size, horizon)
    _sun(draw, rng, canvas.size, (255, 244, 200, 230))
    _gradient(canvas, (48, 132, 172), (120, 196, 204), horizon, 1)
    _hills(draw, rng, canvas.size, horizon + 0.2, 0.02, (236, 240, 232))
    _hills(draw, rng, canvas.size, horizon + 0.23, 0.02, (228, 204, 154))
    _dots(draw, rng, (0, 0.75 * h, w, h), [(206, 180, 130), (244, 230, 200), (190, 150, 120)], 26, 0.006 * w)


def _meadow(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    horizon = rng.uniform(0.4, 0.6)
    _gradient(canvas, (126, 186, 236), (222, 236, 240), 0, 1)
    _clouds(draw, rng, canvas.size, horizon)
    _sun(draw, rng, canvas.size, (255, 246, 190, 220))
    _hills(draw, rng, canvas.size, horizon - 0.04, 0.06, (132, 172, 128))
    _hills(draw, rng, canvas.size, horizon + 0.06, 0.05, (122, 176, 84))
    _hills(draw, rng, canvas.size, horizon + 0.2, 0.03, (104, 160, 66))
    _dots(draw, rng, (0, 0.75 * h, w, h), [(250, 250, 240), (250, 220, 90), (226, 120, 140)], 40, 0.006 * w)


def _night(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    _gradient(canvas, (12, 16, 44), (52, 56, 104), 0, 1)
    _dots(draw, rng, (0, 0, w, 0.7 * h), [(255, 255, 240), (200, 210, 255)], 60, 0.004 * w)
    _sun(draw, rng, canvas.size, (246, 242, 214, 255))
    _hills(draw, rng, canvas.size, rng.uniform(0.68, 0.8), 0.04, (24, 30, 46))


def _snow(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    _gradient(canvas, (158, 176, 198), (222, 228, 236), 0, 1)
    base = rng.uniform(0.5, 0.65)
    peak = rng.uniform(0.2, 0.8) * w
    draw.polygon([(peak - 0.5 * w, base * h), (peak, 0.16 * h), (peak + 0.5 * w, base * h)], fill=(150, 162, 184))
    draw.polygon([(peak - 0.14 * w, 0.27 * h), (peak, 0.16 * h), (peak + 0.14 * w, 0.27 * h)], fill=(246, 248, 252))
    _hills(draw, rng, canvas.size, base, 0.03, (226, 232, 242))
    _hills(draw, rng, canvas.size, base + 0.16, 0.03, (244, 246, 250))
    _dots(draw, rng, (0, 0, w, h), [(255, 255, 255)], 70, 0.006 * w)


def _city(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    _gradient(canvas, (166, 182, 196), (226, 216, 206), 0, 1)
    ground, x = rng.uniform(0.66, 0.76) * h, -0.05 * w
    while x < w:
        width, top = rng.uniform(0.08, 0.18) * w, rng.uniform(0.1, 0.5) * h
        wall = shade(
            rng.choice(((128, 122, 124), (150, 136, 124), (108, 118, 132), (160, 146, 138))), rng.uniform(0.8, 1.2)
        )
        draw.rectangle((x, top, x + width, ground), fill=wall)
        step, lit = 0.035 * w, rng.choice(((214, 222, 226), (250, 226, 160), (70, 78, 90)))
        for row in range(int((ground - top) / (step * 1.5))):
            for column in range(int(width / step) - 1):
                left, up = x + step * (column + 0.6), top + step * (row * 1.5 + 0.5)
                draw.rectangle((left, up, left + step * 0.5, up + step * 0.8), fill=lit)
        x += width + rng.uniform(0, 0.02) * w
    draw.rectangle((0, ground, w, h), fill=(104, 104, 108))
    draw.rectangle((0, ground, w, ground + 0.03 * h), fill=(176, 172, 166))
    for i in range(6):
        draw.rectangle((w * i / 6, 0.88 * h, w * (i + 0.5) / 6, 0.9 * h), fill=(232, 228, 208))


def _desert(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    _gradient(canvas, (92, 164, 214), (246, 218, 176), 0, 0.7)
    _sun(draw, rng, canvas.size, (255, 240, 180, 240))
    base = rng.uniform(0.5, 0.62)
    _hills(draw, rng, canvas.size, base, 0.07, (222, 172, 108))
    _hills(draw, rng, canvas.size, base + 0.14, 0.05, (232, 188, 122))
    _hills(draw, rng, canvas.size, base + 0.28, 0.03, (240, 202, 140))
    for _ in range(rng.choice((0, 1, 2))):
        x, y, s = rng.uniform(0.05, 0.95) * w, (base + rng.uniform(0.05, 0.25)) * h, rng.uniform(0.06, 0.1) * h
        for dx, y0, y1 in ((0, -1.6, 0.4), (-0.5, -1.0, -0.4), (0.5, -1.2, -0.6)):
            draw.line((x + dx * s, y + y0 * s, x + dx * s, y + y1 * s), fill=(84, 122, 72), width=max(2, int(0.25 * s)))
        draw.line(
            (x - 0.5 * s, y - 0.45 * s, x + 0.5 * s, y - 0.55 * s), fill=(84, 122, 72), width=max(2, int(0.2 * s))
        )


def _sea(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    horizon = rng.uniform(0.28, 0.45)
    _gradient(canvas, (134, 188, 226), (226, 232, 232), 0, horizon)
    _clouds(draw, rng, canvas.size, horizon)
    _gradient(canvas, (58, 120, 160), (18, 76, 112), horizon, 1)
    for _ in range(34):
        depth = rng.random()
        x, y, s = rng.uniform(0, w), (horizon + 0.03 + depth * (0.97 - horizon)) * h, (0.02 + 0.06 * depth) * w
        draw.arc((x - s, y - 0.2 * s, x + s, y + 0.3 * s), 200, 340, fill=(190, 216, 226), width=max(2, int(0.05 * s)))


def _forest(canvas: Image.Image, draw: _Draw, rng: random.Random) -> None:
    w, h = canvas.size
    _gradient(canvas, (140, 170, 140), (60, 92, 66), 0, 1)
    for depth in (0.35, 0.6, 0.9):
        trunk = shade((84, 72, 58), 1.7 - depth)
        for _ in range(5):
            x, half = rng.uniform(0, w), (0.01 + 0.02 * depth) * w
            draw.rectangle((x - half, 0, x + half, (0.55 + 0.25 * depth) * h), fill=trunk)
        leaves = [shade((64, 104, 60), f * (1.5 - depth * 0.6)) for f in (0.8, 1.0)]
        _dots(draw, rng, (0, -0.05 * h, w, 0.22 * h), leaves, 16, 0.06 * w)
    _hills(draw, rng, canvas.size, rng.uniform(0.7, 0.8), 0.02, (86, 92, 52))
    _dots(draw, rng, (0, 0.8 * h, w, h), [(120, 98, 54), (148, 120, 60), (70, 96, 48)], 40, 0.01 * w)


_SCENES: dict[str, Callable[[Image.Image, _Draw, random.Random], None]] = {
    "beach": _beach,
    "meadow": _meadow,
    "night": _night,
    "snow": _snow,
    "city": _city,
    "desert": _desert,
    "sea": _sea,
    "forest": _forest,
}


def _brushes(draw: _Draw, rng: random.Random, size: tuple[int, int], subject: Subject) -> list[Brush]:
    """Where the objects stand: side by side along the longer side, large enough to survive a random crop."""
    short, long = min(size), max(size)
    shares = {1: (0.68, 0.92), 2: (0.5, 0.66), 3: (0.4, 0.52)}[subject.count]
    floats = subject.noun in {"butterfly", "fish", "hot air balloon", "umbrella", "flower"}
    brushes = []
    for k in range(subject.count):
        side = min(short * rng.uniform(*shares), 1.1 * long / subject.count)
        along = long * (k + 0.5) / subject.count + rng.uniform(-0.1, 0.1) * (long / subject.count)
        slack = max(0.0, short - side) / 2
        across = short / 2 + rng.uniform(-0.6, 0.9) * slack
        brushes.append(
            Brush(
                draw=draw,
                centre_px=(along, across) if size[0] >= size[1] else (across, along),
                size_px=side,
                angle_rad=math.radians(rng.gauss(0, 12 if floats else 4)),
                mirrored=rng.random() < 0.5,
            )
        )
    return brushes


def _photograph(canvas: Image.Image, rng: random.Random) -> Image.Image:
    """What a camera does: lens blur, light from one side, a colour cast, vignetting, uneven light and grain."""
    if rng.random() < 0.2:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0)))
    width, height = canvas.size
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = rng.gauss(1.0, 0.09) + rng.uniform(-0.12, 0.12) * x + rng.uniform(-0.1, 0.1) * y
    light -= rng.uniform(0.0, 0.14) * (x * x + y * y)
    mottle = Image.frombytes("L", (9, 7), rng.randbytes(63)).resize((width, height), Image.Resampling.BICUBIC)
    light += (np.asarray(mottle, dtype=np.float32) - 128) * (rng.uniform(0.1, 0.5) / 1000)
    warmth = rng.gauss(0, 0.05)
    cast = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32)
    left, top = rng.randrange(_GRAIN_SIDE - width), rng.randrange(_GRAIN_SIDE - height)
    grain = _grain()[top : top + height, left : left + width] * np.float32(rng.uniform(1.5, 9.0))
    pixels = np.asarray(canvas) * (light[:, :, None] * cast)
    pixels += grain
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _encode(image: Image.Image, rng: random.Random, subject: Subject, camera: str) -> bytes:
    """The picture as one of the kinds of JPEG that Flickr serves."""
    if subject.monochrome:
        image = image.convert("L")
    elif rng.random() < 0.008:
        image = image.convert("CMYK")
    options: dict[str, object] = {"quality": rng.randint(60, 95), "progressive": rng.random() < 0.06}
    if rng.random() < 0.1:
        exif = Image.Exif()
        exif[0x0110], exif[0x0112], exif[0x0131] = camera or "unknown", 1, "embedded sample"
        options["exif"] = exif.tobytes()
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def draw_picture(subject: Subject, *, seed: str, camera: str = "") -> bytes:
    """A JPEG of the subject; all that is random in it follows from `seed`."""
    rng = random.Random(seed)
    aspect = rng.choice(_ASPECTS)
    long = 500 if rng.random() < 0.3 else rng.randint(240, 499)
    size = (max(1, round(long * aspect[0] / max(aspect))), max(1, round(long * aspect[1] / max(aspect))))
    if size == PLACEHOLDER_SIZE:
        size = (500, 375)
    # Shapes are drawn twice as large and scaled down, because Pillow draws them with jagged edges.
    canvas = Image.new("RGB", (2 * size[0], 2 * size[1]))
    draw = ImageDraw.Draw(canvas, "RGBA")
    _SCENES[subject.scene](canvas, draw, rng)
    base = COLOURS[subject.colour]
    for brush in _brushes(draw, rng, canvas.size, subject):
        red, green, blue = (min(255, max(0, c + rng.randint(-14, 14))) for c in base)
        OBJECTS[subject.label](brush, (red, green, blue), rng)
    return _encode(_photograph(canvas.reduce(2), rng), rng, subject, camera)
