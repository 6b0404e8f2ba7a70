"""Against torchvision: equal parameters give equal pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from slip.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    apply,
    evaluation_view,
    normalise,
)
from slip.data.view_params import NUM_UNIFORMS, Jitter, ViewKind, ViewParams, draw_params
from slip.torchvision_compat import import_torchvision

import_torchvision()
from torchvision import transforms  # noqa: E402
from torchvision.transforms import functional  # noqa: E402

GENERATOR = np.random.Generator(np.random.Philox(11))
SMALL = GENERATOR.integers(0, 256, (13, 17, 3), dtype=np.uint8)
NOISE = GENERATOR.normal(0, 12, (180, 240, 3))
PHOTO = Image.fromarray(
    np.clip(np.asarray(Image.fromarray(SMALL).resize((240, 180), Image.Resampling.BICUBIC)) + NOISE, 0, 255).astype(
        np.uint8
    )
)


def torchvision_view(image: Image.Image, params: ViewParams, size: int) -> npt.NDArray[np.uint8]:
    """What the published transforms do once their parameters are drawn."""
    left, top, right, bottom = params.box
    view = functional.resized_crop(image, top, left, bottom - top, right - left, [size, size])
    if params.jitter is not None:
        steps = [
            (functional.adjust_brightness, params.jitter.brightness),
            (functional.adjust_contrast, params.jitter.contrast),
            (functional.adjust_saturation, params.jitter.saturation),
            (functional.adjust_hue, params.jitter.hue),
        ]
        for number in params.jitter.order:
            operation, factor = steps[number]
            view = operation(view, factor)
    if params.grey:
        view = functional.rgb_to_grayscale(view, num_output_channels=3)
    if params.blur_radius is not None:
        view = view.filter(ImageFilter.GaussianBlur(radius=params.blur_radius))
    if params.flip:
        view = functional.hflip(view)
    return np.asarray(view)


@pytest.mark.parametrize("kind", ["clip", "ssl"])
def test_pixels_are_torchvisions(kind: ViewKind) -> None:
    seen = {"jitter": 0, "grey": 0, "blur": 0, "flip": 0}
    for _ in range(60):
        params = draw_params(kind, *PHOTO.size, GENERATOR.random(NUM_UNIFORMS).tolist())
        seen["jitter"] += params.jitter is not None
        seen["grey"] += params.grey
        seen["blur"] += params.blur_radius is not None
        seen["flip"] += params.flip
        found = apply(PHOTO, params, 96)
        assert found.shape == (96, 96, 3)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, torchvision_view(PHOTO, params, 96))
    assert all(seen.values()) if kind == "ssl" else not any(seen.values())


@given(hue=st.floats(-0.1, 0.1))
def test_every_hue_is_torchvisions(hue: float) -> None:
    jitter = Jitter(order=(3, 0, 1, 2), brightness=1.0, contrast=1.0, saturation=1.0, hue=hue)
    params = ViewParams(box=(0, 0, *PHOTO.size), jitter=jitter)
    np.testing.assert_array_equal(apply(PHOTO, params, 32), torchvision_view(PHOTO, params, 32))


@pytest.mark.parametrize("size", [(240, 180), (180, 240), (100, 100), (501, 37), (33, 48)])
def test_evaluation_view_is_torchvisions(size: tuple[int, int]) -> None:
    image = PHOTO.resize(size)
    reference = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    np.testing.assert_array_equal(evaluation_view(image, 64), np.asarray(reference(image)))


def test_normalise_is_to_tensor_and_normalize() -> None:
    views = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    expected = torch.stack([reference(Image.fromarray(view.permute(1, 2, 0).numpy())) for view in views])
    found = normalise(views)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
