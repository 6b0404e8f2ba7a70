"""The page of samples: its size, that pictures are where they belong, and that any caption can be drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFont

from slip import sample_grid
from slip.sample_grid import SIDE, Tile, grid_columns, grid_png

Pixels = npt.NDArray[np.uint8]

CAPTIONS = (
    "",
    "a plain caption",
    "Gänseblümchen im Café, Ångström & Söhne",
    "日本語の説明 东京塔",
    "Кошка на окне",
    "صورة جميلة",
    "emoji 😀🎉 and a flag 🇩🇪",
    "line\nbreak, tab\t, bell \x07, null \x00, joiner \u200d",
    "half a pair \ud800",
    "x" * 5000,
    "many words " * 500,
)


def colour(rgb: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, rgb)


def tile(image: Image.Image | None, caption: str = "caption", damage: str = "") -> Tile:
    return Tile(image=image, caption=caption, labels=("id 7", "key 0123456789abcdef0123456789abcdef"), damage=damage)


def drawn(tiles: list[Tile], title: str = "title") -> Pixels:
    with Image.open(io.BytesIO(grid_png(tiles, title))) as page:
        assert page.format == "PNG"
        return np.asarray(page.convert("RGB"))


def squares(page: Pixels, ink: tuple[int, int, int]) -> Pixels:
    """Where the page has exactly this colour: (top, bottom, left, right)."""
    rows, columns = np.nonzero((page == ink).all(axis=2))
    return np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])


@pytest.fixture(params=["found", "pillow", "bitmap"])
def font(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each of the fonts there can be: one of this machine, Pillow's own, and that of a Pillow without FreeType."""
    truetype, default = ImageFont.truetype, ImageFont.load_default

    def missing(font: Any, *rest: Any, **named: Any) -> ImageFont.FreeTypeFont:
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return truetype(font, *rest, **named)

    def without_freetype(size: float | None = None) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        if size is not None:
            raise ImportError("The _imagingft C module is not installed")
        return ImageFont.load_default_imagefont()

    if request.param != "found":
        monkeypatch.setattr(ImageFont, "truetype", missing)
    monkeypatch.setattr(ImageFont, "load_default", without_freetype if request.param == "bitmap" else default)
    sample_grid._font.cache_clear()
    yield str(request.param)
    sample_grid._font.cache_clear()


def test_every_tile_shows_its_own_picture() -> None:
    inks = [(250, 10 * i, 5) for i in range(7)]
    page = drawn([tile(colour(ink)) for ink in inks])
    columns = grid_columns(7)
    places = [squares(page, ink) for ink in inks]
    # 40 pixels are enlarged fourfold, no further, and stand in the middle.
    assert all((bottom - top, right - left) == (160, 160) for top, bottom, left, right in places)
    lefts = [int(place[2]) for place in places]
    assert lefts == [lefts[i % columns] for i in range(7)]
    assert len(set(lefts)) == columns
    tops = [int(place[0]) for place in places]
    assert tops == [tops[i - i % columns] for i in range(7)]
    assert sorted(set(tops)) == sorted(tops[::columns])


def test_size_of_the_page() -> None:
    one, many = (drawn([tile(colour((9, 9, 9)))] * count) for count in (1, 32))
    assert many.shape[1] == 8 * (SIDE + 16) + 16
    assert one.shape[1] == SIDE + 32
    row = one.shape[0]
    assert 3 * row < many.shape[0] < 4 * row


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [((400, 100), 50, 200), ((100, 400), 200, 50), ((1000, 1000), 200, 200), ((3000, 1), 1, 200)],
)
def test_pictures_are_letterboxed_whole(size: tuple[int, int], height: int, width: int) -> None:
    # Without words, whose edges have every shade of grey.
    page = drawn([Tile(image=colour((200, 30, 40), size), caption="", labels=())], title="")
    top, bottom, left, right = squares(page, (200, 30, 40))
    assert (bottom - top, right - left) == (height, width)
    box = squares(page, (236, 236, 236)) if height < SIDE or width < SIDE else squares(page, (200, 30, 40))
    assert (box[1] - box[0], box[3] - box[2]) == (SIDE, SIDE)
    assert abs((top - box[0]) - (box[1] - bottom)) <= 1
    assert abs((left - box[2]) - (box[3] - right)) <= 1


def test_damaged_samples_cannot_be_taken_for_pictures() -> None:
    page = drawn([tile(None, damage="sha256 is abc"), tile(colour((1, 2, 3)))])
    other = drawn([tile(None, damage="sha256 is xyz"), tile(colour((1, 2, 3)))])
    top, bottom, left, right = squares(page, (250, 226, 222))
    assert (bottom - top, right - left) == (SIDE - 4, SIDE - 4)
    assert right < squares(page, (1, 2, 3))[2]
    assert (page[top:bottom, left:right] != other[top:bottom, left:right]).any()


@pytest.mark.usefixtures("font")
@pytest.mark.parametrize("caption", CAPTIONS)
def test_any_caption_can_be_drawn_and_stays_in_its_column(caption: str) -> None:
    page = drawn([tile(colour((9, 200, 9)), caption), tile(None, caption, damage=caption)], title=caption)
    # A letter may overhang what it advances by, but never by much.
    columns = page[:, [*range(13), *range(16 + SIDE + 3, 32 + SIDE - 3)]]
    heading = int(squares(page, (9, 200, 9))[0]) - (SIDE - 160) // 2
    assert (columns[heading:] == 255).all()
    ink = (page[heading + SIDE :, 16 : 16 + SIDE] != 255).any(axis=(1, 2))
    # Five lines of caption and two of labels, whatever the caption is.
    assert 10 < ink.sum() < 180


@pytest.mark.usefixtures("font")
def test_captions_are_readable_as_far_as_the_font_goes() -> None:
    empty, plain, accented = (drawn([tile(colour((9, 9, 9)), text)]) for text in ("", "cafe", "caf\u00e9"))
    assert plain.shape[0] > empty.shape[0]
    # Drawn with its accent or without, but never as nothing.
    assert accented.shape == plain.shape
    assert (plain != 255).any(axis=2).sum() <= (accented != 255).any(axis=2).sum() + 5


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (12, 4), (32, 8), (100, 10)])
def test_rows_are_full(count: int, columns: int) -> None:
    assert grid_columns(count) == columns


@pytest.mark.parametrize("count", range(1, 80))
def test_pages_are_neither_towers_nor_ribbons(count: int) -> None:
    columns = grid_columns(count)
    rows = -(-count // columns)
    assert 1 <= columns <= count
    assert rows <= columns <= 3 * rows + 3
