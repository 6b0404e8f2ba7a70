"""Ten thousand damaged pictures: each gets a verdict, none an exception."""

from __future__ import annotations

import random

import pytest

from pipeline.fetch.resize import reduce_picture
from pipeline.fetch.sources import DAMAGE, Picture, Rejected, classify_picture, open_picture
from pipeline.records import Reason
from tests.mutated_pictures import VARIANTS, encoded, mutated

PER_VARIANT = 1000


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
