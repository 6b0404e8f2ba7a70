from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest
from PIL import Image

from pipeline.config import BuildConfig
from pipeline.fetch.judging import Kept, PictureLimits, judge, limits_of
from pipeline.fetch.sources import Rejected
from pipeline.records import Reason


def picture(size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (9, 80, 200)).save(out, kind)
    return out.getvalue()


def limits(**settings: Any) -> PictureLimits:
    defaults = {"min_side": 16, "max_pixels": 10**6, "max_aspect": 20.0, "resize": None, "from_flickr": True}
    return PictureLimits(**{**defaults, **settings})


def kept(data: bytes, **settings: Any) -> Kept:
    answer = judge(data, limits(**settings))
    assert isinstance(answer, Kept), answer
    assert answer.sha256 == hashlib.sha256(answer.data).hexdigest()
    with Image.open(io.BytesIO(answer.data)) as image:
        assert image.size == (answer.picture.width, answer.picture.height)
        assert image.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[answer.picture.format]
    return answer


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_good_pictures_are_kept_as_they_are(kind: str) -> None:
    assert kept(picture(kind=kind)).data == picture(kind=kind)


@pytest.mark.parametrize("size", [(60, 40), (80, 50), (50, 50)])
def test_small_pictures_are_never_enlarged_or_written_anew(size: tuple[int, int]) -> None:
    assert kept(picture(size), resize=50).data == picture(size)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_are_reduced_and_described_as_such(kind: str) -> None:
    found = kept(picture((300, 150), kind), resize=50).picture
    assert (found.format, found.width, found.height) == ("jpg", 100, 50)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((400, 20), None),
        ((401, 20), Reason.WRONG_ASPECT),
        ((20, 401), Reason.WRONG_ASPECT),
        ((401, 15), Reason.TOO_SMALL),
        ((1001, 1000), Reason.BOMB),
    ],
)
def test_limits_are_those_of_the_picture_as_it_came(size: tuple[int, int], reason: Reason | None) -> None:
    answer = judge(picture(size), limits(resize=18))
    assert (answer.reason if isinstance(answer, Rejected) else None) is reason


def test_damage_that_shows_only_when_reducing_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("broken data stream")

    monkeypatch.setattr("pipeline.fetch.judging.reduce_picture", broken)
    answer = judge(picture((300, 150)), limits(resize=50))
    assert answer == Rejected(reason=Reason.TRUNCATED, detail="jpg: broken data stream", width=300, height=150)


def test_limits_are_the_settings() -> None:
    settings = BuildConfig(min_side=20, max_pixels=999, max_aspect=3.0, resize=50)
    assert limits_of(settings) == limits(min_side=20, max_pixels=999, max_aspect=3.0, resize=50)
