"""Ten thousand damaged pictures: each gets a verdict, none an exception."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from pipeline.fetch.resize import reduce_picture
from pipeline.fetch.sources import DAMAGE, Picture, Rejected, classify_picture, open_picture
from pipeline.records import Reason

VARIANTS = {
    "baseline": ("JPEG", "RGB", {}),
    "progressive": ("JPEG", "RGB", {"progressive": True}),
    "cmyk": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "png palette": ("PNG", "P", {}),
    "png alpha": ("PNG", "RGBA", {}),
    "webp lossy": ("WEBP", "RGB", {}),
    "webp lossless": ("WEBP", "RGBA", {"lossless": True}),
    "gif": ("GIF", "P", {}),
    "gif87": ("GIF", "L", {}),
}
PER_VARIANT = 1000


def encoded(name: str) -> bytes:
    kind, mode, options = VARIANTS[name]
    out = io.BytesIO()
    Image.linear_gradient("L").resize((48, 40)).convert("RGB").convert(mode).save(out, kind, **options)
    return out.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: bits flipped, bytes replaced, cut out, repeated or put in; half of them in the headers."""
    result = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if not result:
            break
        at = draw.randrange(min(len(result), 64) if draw.random() < 0.5 else len(result))
        length = draw.choice((1, 1, 2, 4, 40))
        match draw.choice(("flip", "replace", "cut", "end", "repeat", "insert")):
            case "flip":
                result[at] ^= 1 << draw.randrange(8)
            case "replace":
                result[at : at + length] = bytes(draw.choice((0, 255, draw.randrange(256))) for _ in range(length))
            case "cut":
                del result[at : at + length]
            case "end":
                del result[at:]
            case "repeat":
                result[at:at] = result[at : at + length]
            case _:
                result[at:at] = draw.randbytes(length)
    return bytes(result)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_mutated_picture_gets_a_verdict(name: str) -> None:
    whole, draw = encoded(name), random.Random(name)
    kept = 0
    for number in range(PER_VARIANT):
        data = mutated(whole, draw)
        try:
            verdict = classify_picture(data, min_side=8, max_pixels=100_000, max_aspect=20.0)
        except Exception as error:
            raise AssertionError(f"{name} number {number}: {type(error).__name__}: {error}") from error
        if isinstance(verdict, Rejected):
            assert verdict.reason in Reason
            assert verdict.detail, number
            continue
        kept += 1
        assert isinstance(verdict, Picture)
        assert verdict.width * verdict.height <= 100_000
        if number % 10 == 0:  # a picture that is kept can be made smaller, or is refused like a damaged one
            try:
                reduce_picture(open_picture(data, verdict.format, 100_000)[2], 8)  # type: ignore[arg-type]
            except DAMAGE:
                continue
    # Some changes do no harm (a JPEG carries no check sum), so that both answers are met here.
    assert kept == 0 if VARIANTS[name][0] == "GIF" else 0 < kept < PER_VARIANT
