"""Damaged pictures, for tests that nothing breaks on them: small ones in every format, changed at random."""

from __future__ import annotations

import io
import random

from PIL import Image

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


def encoded(name: str) -> bytes:
    """A whole picture of one of `VARIANTS`."""
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
