"""The fast mode's pixels against the reference's, at the same parameters, on photograph-like pictures."""

from __future__ import annotations

import io
import random
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.sample.pictures import draw_picture
from pipeline.sample.subjects import draw_subject
from slip.data import kernel
from slip.data.decode import open_picture, shrink_for
from slip.data.view_maker import AugmentMode, fill_views
from slip.data.view_params import NUM_UNIFORMS, ViewKind, ViewParams, draw_params

Pixels = npt.NDArray[np.uint8]
KINDS: tuple[ViewKind, ...] = ("clip", "ssl", "ssl")


@cache
def photographs() -> tuple[bytes, ...]:
    """Twelve drawn photographs with grain, long side 240 to 500."""
    draw = random.Random(8)
    return tuple(draw_picture(draw_subject(draw), seed=f"view {i}") for i in range(12))


def views(data: bytes, params: list[ViewParams], size: int, mode: AugmentMode, *, colours: bool = True) -> list[Pixels]:
    outs = [np.empty((3, size, size), dtype=np.uint8) for _ in params]
    fill_views(open_picture(data), params, outs, mode=mode, colours=colours)
    return outs


def drawn(data: bytes, generator: np.random.Generator) -> list[ViewParams]:
    picture = open_picture(data)
    return [draw_params(kind, picture.width, picture.height, generator.random(NUM_UNIFORMS).tolist()) for kind in KINDS]


def psnr(a: Pixels, b: Pixels) -> float:
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 10 * float(np.log10(255**2 / error)) if error else np.inf


@pytest.mark.parametrize("with_kernel", [True, False])
def test_crops_are_the_references(with_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.available()
    monkeypatch.setattr(kernel, "available", lambda: with_kernel)
    generator = np.random.Generator(np.random.Philox(1))
    found: dict[int, list[float]] = {1: [], 2: []}
    for data in photographs():
        plain = [ViewParams(box=view.box) for view in drawn(data, generator)]
        boxes = [view.box for view in plain]
        for size in (224, 36):
            shrink = shrink_for(open_picture(data), boxes, size)
            pairs = zip(views(data, plain, size, "reference"), views(data, plain, size, "fast"), strict=True)
            found[min(shrink, 2)].extend(psnr(a, b) for a, b in pairs)
    assert np.median(found[1]) >= 55
    assert min(found[1]) >= 50
    assert len(found[2]) >= 12
    assert np.percentile(found[2], 5) >= 43


@pytest.mark.parametrize("with_kernel", [True, False])
def test_whole_views_are_nearly_the_references(with_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "available", lambda: with_kernel)
    generator = np.random.Generator(np.random.Philox(2))
    found: list[float] = []
    for data in photographs():
        params = drawn(data, generator)
        pairs = zip(views(data, params, 224, "reference"), views(data, params, 224, "fast"), strict=True)
        found.extend(psnr(a, b) for a, b in pairs)
    assert np.median(found) >= 50
    assert np.percentile(found, 5) >= 43


def test_without_colours_only_the_crop_is_made() -> None:
    generator = np.random.Generator(np.random.Philox(3))
    params = drawn(photographs()[0], generator)
    plain = [ViewParams(box=view.box) for view in params]
    for a, b in zip(
        views(photographs()[0], params, 64, "fast", colours=False),
        views(photographs()[0], plain, 64, "fast", colours=True),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("with_kernel", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_kind_of_picture(kind: str, mode: str, with_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "CMYK" and kind != "JPEG":
        mode = "RGB"
    monkeypatch.setattr(kernel, "available", lambda: with_kernel)
    with Image.open(io.BytesIO(photographs()[3])) as image:
        photo = image.convert(mode)
    buffer = io.BytesIO()
    photo.save(buffer, kind, quality=90)
    width, height = photo.size
    params = [ViewParams(box=(0, 0, width, height), flip=True), ViewParams(box=(3, 5, 4, 6))]
    reference = views(buffer.getvalue(), params, 100, "reference")
    fast = views(buffer.getvalue(), params, 100, "fast")
    assert psnr(reference[0], fast[0]) > 38
    np.testing.assert_array_equal(fast[1], np.broadcast_to(fast[1][:, :1, :1], fast[1].shape))
