from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers
from PIL import Image

from pipeline.fetch.resize import reduce_picture, reduced_size


def photograph(size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Smooth colours with some detail, different in every channel."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    channels = [0.5 + 0.4 * np.sin(9 * x + k) * np.cos(7 * y - k) + 0.05 * np.sin(90 * x * y) for k in range(3)]
    return Image.fromarray((np.stack(channels, -1) * 255).astype(np.uint8))


def opened(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(io.BytesIO(out.getvalue()))


def reduced(image: Image.Image, shorter_side: int = 100) -> Image.Image:
    data, size = reduce_picture(image, shorter_side)
    small = Image.open(io.BytesIO(data))
    assert small.format == "JPEG"
    assert small.size == size
    small.load()
    return small


def psnr(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one.convert("RGB"), float) - np.asarray(other.convert("RGB"), float)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


@pytest.mark.parametrize(
    ("size", "shorter_side", "expected"),
    [
        ((500, 375), 256, (341, 256)),
        ((375, 500), 256, (256, 341)),
        ((500, 500), 256, (256, 256)),
        ((500, 256), 256, (500, 256)),
        ((200, 100), 256, (200, 100)),
        ((10_000, 257), 256, (9961, 256)),
    ],
)
def test_sizes(size: tuple[int, int], shorter_side: int, expected: tuple[int, int]) -> None:
    assert reduced_size(*size, shorter_side) == expected


@given(width=integers(1, 20_000), height=integers(1, 20_000), shorter_side=integers(1, 2000))
def test_pictures_only_ever_get_smaller_and_keep_their_shape(width: int, height: int, shorter_side: int) -> None:
    small = reduced_size(width, height, shorter_side)
    assert min(small) == min(width, height, shorter_side)
    assert small[0] <= width
    assert small[1] <= height
    assert abs(max(small) * min(width, height) - min(small) * max(width, height)) <= min(width, height)


@pytest.mark.parametrize("size", [(400, 300), (1600, 1200)])
def test_the_result_is_that_of_antialiased_resampling(size: tuple[int, int]) -> None:
    """The larger picture is decoded at a part of its size first, which must not show."""
    source = photograph(size)
    expected = source.resize((133, 100), Image.Resampling.LANCZOS)
    assert psnr(reduced(opened(source, "JPEG", quality=98, subsampling=0)), expected) > 36


def test_a_fine_pattern_becomes_grey_and_no_moire() -> None:
    stripes = np.zeros((400, 400), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(reduced(opened(Image.fromarray(stripes), "PNG")), float)
    assert abs(small[5:-5, 5:-5] - 127.5).max() < 4


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "P", "L", "LA", "1"])
def test_every_mode_looks_as_it_does_in_full_size(mode: str) -> None:
    source = photograph().convert(mode)
    image = opened(source, "JPEG" if mode == "CMYK" else "PNG")
    expected = image.convert("RGB").resize((133, 100), Image.Resampling.LANCZOS)
    small = reduced(image)
    assert small.mode == ("L" if mode in {"L", "LA", "1"} else "RGB")
    assert psnr(small, expected) > (25 if mode in {"P", "1"} else 33)


def test_sixteen_bits_lose_their_lower_byte() -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16)[None].repeat(300, 0)
    image = opened(Image.fromarray(ramp), "PNG")
    assert image.mode.startswith("I")
    small = np.asarray(reduced(image), float)
    expected = np.linspace(0, 255, small.shape[1])
    assert abs(small - expected).max() < 4


def test_transparency_is_dropped_as_readers_of_the_shards_drop_it() -> None:
    source = photograph()
    source.putalpha(0)
    assert psnr(reduced(opened(source, "PNG")), photograph().resize((133, 100), Image.Resampling.LANCZOS)) > 33


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    image = opened(photograph().convert("P"), "PNG", transparency=3)
    assert image.mode == "P"
    expected = image.convert("RGBA").convert("RGB").resize((133, 100), Image.Resampling.LANCZOS)
    assert psnr(reduced(image), expected) > 25


def test_orientation_is_neither_applied_nor_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    small = reduced(opened(photograph(), "JPEG", exif=exif.tobytes()))
    assert small.size == (133, 100)
    assert 0x0112 not in small.getexif()


def test_the_same_picture_gives_the_same_bytes() -> None:
    one, other = (reduce_picture(opened(photograph(), "WEBP"), 64) for _ in range(2))
    assert one == other
