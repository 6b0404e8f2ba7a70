from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slip.data import decode
from slip.data.decode import SHRINKS, DamagedImageError, decode_rgb, open_picture, shrink_for

COLOURS = np.random.Generator(np.random.Philox(1)).integers(0, 256, (6, 7, 3), dtype=np.uint8)
PHOTO = Image.fromarray(COLOURS).resize((61, 47), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded(PHOTO, "JPEG", quality=95, subsampling=0),
        encoded(PHOTO, "JPEG", quality=30, subsampling=2),
        encoded(PHOTO, "JPEG", quality=80, subsampling=1, progressive=True),
        encoded(PHOTO.convert("L"), "JPEG"),
        encoded(PHOTO.convert("CMYK"), "JPEG"),
        encoded(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        encoded(PHOTO, "PNG"),
        encoded(PHOTO.convert("RGBA"), "PNG"),
        encoded(PHOTO.convert("LA"), "PNG"),
        encoded(PHOTO.convert("1"), "PNG"),
        encoded(PHOTO.quantize(16), "PNG"),
        encoded(PHOTO, "WEBP"),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
def test_pixels_are_those_of_the_published_loader(data: bytes, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(decode, "simplejpeg", None)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    found = decode_rgb(data)
    assert found.mode == "RGB"
    assert found.size == PHOTO.size  # also with the EXIF orientation that would turn it
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("fast", [True, False])
def test_the_header_is_read_without_the_pixels(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(decode, "simplejpeg", None)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(PHOTO, kind)
        picture = open_picture(data[:-300] if kind == "JPEG" else data)
        assert (picture.width, picture.height, picture.is_jpeg) == (61, 47, kind == "JPEG")


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(61, 47), (64, 48), (33, 16)])
def test_jpegs_shrink_in_the_dct_domain(
    size: tuple[int, int], mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = PHOTO.resize(size, Image.Resampling.BICUBIC)
    picture = open_picture(encoded(photo.convert(mode), "JPEG", quality=95, **options))
    full = Image.fromarray(picture.pixels())
    for shrink in SHRINKS:
        found = picture.pixels(shrink)
        assert found.shape == (-(-size[1] // shrink), -(-size[0] // shrink), 3)
        assert found.flags.c_contiguous
        # About what averaging the pixels gives (two of these pictures at random are 60 apart).
        averaged = np.asarray(full.reduce(shrink)).astype(int)
        assert np.abs(found.astype(int) - averaged).mean() < 12
        with monkeypatch.context() as patch:
            patch.setattr(decode, "simplejpeg", None)
            assert (open_picture(picture.data).pixels(shrink) == found).all()


def test_pictures_shrink_as_far_as_every_crop_allows() -> None:
    picture = open_picture(encoded(PHOTO.resize((640, 480)), "JPEG"))
    boxes = [(0, 0, 640, 480), (10, 20, 110, 140)]
    # The smaller box has 100 pixels: at 1/4 twice the view's side must be left of them, at 1/2 1.4 times.
    assert [shrink_for(picture, boxes, size) for size in (12, 13, 35, 36, 100)] == [4, 2, 2, 1, 1]
    assert shrink_for(picture, boxes[:1], 60) == 4
    assert shrink_for(open_picture(encoded(PHOTO, "PNG")), [(0, 0, 61, 47)], 4) == 1


def test_an_animation_shows_its_first_picture() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green")]
    for kind, options in (("WEBP", {"lossless": True}), ("PNG", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode_rgb(data).tobytes() == frames[0].tobytes()


def test_16_bits_keep_their_upper_byte() -> None:
    wide = np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], dtype=np.uint16)
    found = np.asarray(decode_rgb(encoded(Image.fromarray(wide), "PNG")))
    np.testing.assert_array_equal(found, np.repeat((wide >> 8)[:, :, None], 3, axis=2))


def test_transparent_palette_keeps_its_colours() -> None:
    image = PHOTO.quantize(8)
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255, 0, 1, 2, 3, 4]))
    assert decode_rgb(data).tobytes() == image.convert("RGB").tobytes()


JPEG = encoded(PHOTO, "JPEG", quality=90)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    data = encoded(Image.new("RGB", (200, 100)), kind)
    assert decode_rgb(data, max_pixels=20_000).size == (200, 100)
    with pytest.raises(DamagedImageError, match="200 x 100 pixels, more than 19999"):
        decode_rgb(data, max_pixels=19_999)


def test_pillows_own_bomb_error_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DamagedImageError, match="DecompressionBombError"):
        decode_rgb(encoded(PHOTO, "PNG"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"<html><body>404</body></html>",
        JPEG[: len(JPEG) // 2],
        JPEG[:-200],
        encoded(PHOTO, "PNG")[:-100],
        encoded(PHOTO, "WEBP")[:200],
        encoded(PHOTO, "GIF"),
    ],
    ids=["empty", "magic", "html", "half", "tail", "png", "webp", "gif"],
)
@pytest.mark.parametrize("fast", [True, False])
def test_broken_pictures_are_damaged(data: bytes, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(decode, "simplejpeg", None)
    with pytest.raises(DamagedImageError, match="cannot be decoded"):
        decode_rgb(data)


def test_flipped_bytes_never_do_more_than_damage() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(PHOTO, kind)
        for _ in range(150):
            broken = bytearray(data)
            broken[generator.integers(len(data))] ^= int(generator.integers(1, 256))
            try:
                image = decode_rgb(bytes(broken), max_pixels=1_000_000)
            except DamagedImageError:
                continue
            assert image.mode == "RGB"
