"""A picture of samples: thumbnails with their captions, ids and keys, as the bytes of one PNG.

In: tiles, pictures already decoded, or the word of what is wrong with them. Out: bytes. Pure but for fonts, which are
looked for on this machine: a common one with many scripts, else the one inside Pillow, which knows little
more than English. Characters without a glyph lose their accents or become the font's box.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SIDE = 200
"""Pixels of a thumbnail's square."""

_GAP = 16
_CAPTION_PX, _LABEL_PX, _TITLE_PX = 14, 11, 18
_CAPTION_LINES, _TITLE_LINES, _DAMAGE_LINES = 5, 3, 9
_MAX_CHARACTERS = 400
_SCALABLE = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")

_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)
_LETTERBOX, _DAMAGED, _ALARM = (236, 236, 236), (250, 226, 222), (176, 32, 20)
# No character at all, so every font shows its box for it.
_NO_CHARACTER = "\U0010ffff"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """One sample."""

    image: Image.Image | None
    """RGB; None when the sample is damaged."""
    caption: str
    labels: tuple[str, ...]
    """Small lines below the caption, shortened in the middle where they are too long."""
    damage: str = ""
    """What is wrong with the sample; stands in the place of its picture."""


@lru_cache(maxsize=8)
def _font(size: int) -> Font:
    """A font of `size` pixels."""
    for name in _SCALABLE:
        try:
            return ImageFont.truetype(name, size)
        except (OSError, ImportError):  # not on this machine; a Pillow without FreeType
            continue
    try:
        font: Font = ImageFont.load_default(size)
    except (OSError, ImportError, TypeError):  # TypeError: before Pillow 10.1 it had but one size
        font = ImageFont.load_default()
    return font


@lru_cache(maxsize=4096)
def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    shown, box = (font.getmask(each) for each in (character, _NO_CHARACTER))
    return shown.size != box.size or bytes(shown) != bytes(box)


def _drawable(text: str, font: Font) -> str:
    """One line that `font` can draw; an accent it lacks is left out, what else it lacks is drawn as a box."""
    # Half a surrogate pair, which JSON can hold, is no text.
    text = text[:_MAX_CHARACTERS].encode("utf-8", "replace").decode()
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not isinstance(font, ImageFont.FreeTypeFont):
        plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        return "".join(plain).encode("latin-1", "replace").decode("latin-1")
    shown = []
    for character in text:
        base = unicodedata.normalize("NFKD", character)[0]
        shown.append(base if not _has_glyph(font, character) and _has_glyph(font, base) else character)
    return "".join(shown)


def _fitting(text: str, font: Font, width: int) -> int:
    """How many characters fit into `width` pixels, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces where possible; what is left out ends in an ellipsis."""
    rest, lines = _drawable(text, font), list[str]()
    while rest and len(lines) < max_lines:
        cut = _fitting(rest, font, width)
        space = rest.rfind(" ", 0, cut + 1)
        if cut < len(rest) and space > 0:
            cut = space
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest or len(text) > _MAX_CHARACTERS:
        last = lines[-1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines[-1] = last.rstrip() + "..."
    return lines


def _shorten(text: str, font: Font, width: int) -> str:
    """One line of at most `width` pixels: what is too long loses its middle, as the ends of a key tell most."""
    text, kept = _drawable(text, font), len(text)
    shown = text
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = text[: kept - kept // 2] + "..." + text[len(text) - kept // 2 :]
    return shown


def _line_height(font: Font) -> int:
    top, bottom = font.getbbox("Ag|")[1::2]
    return math.ceil((bottom - top) * 1.3)


def _draw_lines(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], font: Font, ink: tuple[int, ...]
) -> int:
    """Draw lines from y on; where the next one would begin."""
    for line in lines:
        draw.text((x, y), line, font=font, fill=ink)
        y += _line_height(font)
    return y


def _draw_picture(page: Image.Image, x: int, y: int, image: Image.Image) -> None:
    """The whole picture in the middle of its square; small pictures are not enlarged more than fourfold."""
    scale = min(SIDE / image.width, SIDE / image.height, 4.0)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    thumbnail = image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    page.paste(_LETTERBOX, (x, y, x + SIDE, y + SIDE))
    page.paste(thumbnail, (x + (SIDE - size[0]) // 2, y + (SIDE - size[1]) // 2))


def _draw_damage(page: Image.Image, x: int, y: int, damage: str) -> None:
    """A square that cannot be taken for a picture."""
    draw, font = ImageDraw.Draw(page), _font(_LABEL_PX)
    draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), fill=_DAMAGED, outline=_ALARM, width=2)
    below = _draw_lines(draw, x + 10, y + 10, ["DAMAGED"], _font(_TITLE_PX), _ALARM)
    _draw_lines(draw, x + 10, below + 4, _wrap(damage, font, SIDE - 20, _DAMAGE_LINES), font, _ALARM)


def grid_columns(num_tiles: int) -> int:
    """Tiles side by side: the page is rather wider than high, its last row as full as can be: 12 -> 4, 32 -> 8."""
    widest = math.ceil(math.sqrt(2 * num_tiles)) + 1
    fitting = range(min(math.ceil(math.sqrt(num_tiles)), num_tiles), min(widest, num_tiles) + 1)
    return min(fitting, key=lambda columns: (-num_tiles % columns, abs(columns - math.sqrt(2 * num_tiles))))


def grid_png(tiles: Sequence[Tile], title: str) -> bytes:
    """A page with the title and all tiles, row by row."""
    caption_font, label_font, title_font = _font(_CAPTION_PX), _font(_LABEL_PX), _font(_TITLE_PX)
    columns = grid_columns(len(tiles))
    width = columns * (SIDE + _GAP) + _GAP
    heading = _wrap(title, title_font, width - 2 * _GAP, _TITLE_LINES)
    captions = [_wrap(tile.caption, caption_font, SIDE, _CAPTION_LINES) for tile in tiles]
    labels = [[_shorten(label, label_font, SIDE) for label in tile.labels] for tile in tiles]
    caption_height, label_height = _line_height(caption_font), _line_height(label_font)
    # A row is as high as its highest tile.
    heights = [
        SIDE + 8 + len(c) * caption_height + len(w) * label_height for c, w in zip(captions, labels, strict=True)
    ]
    rows = [max(heights[first : first + columns]) for first in range(0, len(tiles), columns)]
    top = _GAP + len(heading) * _line_height(title_font) + _GAP // 2
    page = Image.new("RGB", (width, top + sum(height + _GAP for height in rows)), _PAPER)
    draw = ImageDraw.Draw(page)
    _draw_lines(draw, _GAP, _GAP, heading, title_font, _INK)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = _GAP + column * (SIDE + _GAP), top + sum(height + _GAP for height in rows[:row])
        if tile.image is None:
            _draw_damage(page, x, y, tile.damage)
        else:
            _draw_picture(page, x, y, tile.image)
        below = _draw_lines(draw, x, y + SIDE + 6, captions[number], caption_font, _INK)
        _draw_lines(draw, x, below + 2, labels[number], label_font, _FAINT)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()
