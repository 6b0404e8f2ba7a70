"""A downloaded or read picture becomes what is kept of it, or the reason why nothing is.

Bytes in, a value out: checked from the first byte to the last (`sources`), reduced when asked to (`resize`), with its
digest. This is the same wherever it happens: downloads are judged in img2dataset's processes as they come in, which
leaves nothing to do when the last one is there; archives and local pictures in the processes that read them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pipeline.config import BuildConfig
from pipeline.fetch.resize import reduce_picture
from pipeline.fetch.sources import DAMAGE, Picture, Rejected, classify_picture, open_picture
from pipeline.records import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What a picture must keep to; see the settings of the same names."""

    min_side: int
    max_pixels: int
    max_aspect: float
    resize: int | None
    from_flickr: bool
    """Whether Flickr's placeholder is looked for."""


def limits_of(config: BuildConfig) -> PictureLimits:
    """What pictures must keep to."""
    return PictureLimits(
        min_side=config.min_side,
        max_pixels=config.max_pixels,
        max_aspect=config.max_aspect,
        resize=config.resize,
        from_flickr=config.dataset == "yfcc",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A good picture as it goes into the shard."""

    data: bytes
    sha256: str
    picture: Picture


Answer = Kept | Rejected
"""What a source has for a row, judged."""


def judge(data: bytes, limits: PictureLimits) -> Answer:
    """What is kept of a picture that came as these bytes."""
    verdict = classify_picture(
        data,
        min_side=limits.min_side,
        max_pixels=limits.max_pixels,
        max_aspect=limits.max_aspect,
        from_flickr=limits.from_flickr,
    )
    if isinstance(verdict, Rejected):
        return verdict
    if limits.resize is not None and min(verdict.width, verdict.height) > limits.resize:
        try:
            image = open_picture(data, verdict.format, limits.max_pixels)[2]
            assert image is not None, "only a picture with too many pixels is not opened, and that was rejected"
            data, (width, height) = reduce_picture(image, limits.resize)
        except DAMAGE as error:
            detail = f"{verdict.format}: {' '.join(str(error).split())[:120]}"
            return Rejected(reason=Reason.TRUNCATED, detail=detail, width=verdict.width, height=verdict.height)
        verdict = Picture(format="jpg", width=width, height=height)
    return Kept(data=data, sha256=hashlib.sha256(data).hexdigest(), picture=verdict)
