"""Pixels of the published views (github.com/facebookresearch/SLIP) in their reference form, with Pillow.

`apply` makes a view from a picture and the view's parameters (`slip.data.view_params`) and does what torchvision's
transforms do to a PIL picture, pixel for pixel. Views leave as uint8; `normalise` comes after the copy to the
device (ToTensor starts from uint8, so nothing is lost).

Letters: B samples, S side of the square view in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from slip.data.decode import Pixels
from slip.data.view_params import Jitter, ViewParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _shift_hue(image: Image.Image, hue: float) -> Image.Image:
    channels = image.convert("HSV").split()
    # The hue is a circle of 256 values: the sum wraps around.
    shifted = (np.asarray(channels[0]).astype(np.int32) + int(hue * 255)) & 255
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), *channels[1:])).convert("RGB")


def _apply_jitter(image: Image.Image, jitter: Jitter) -> Image.Image:
    for operation in jitter.order:
        if operation == 0:
            image = ImageEnhance.Brightness(image).enhance(jitter.brightness)
        elif operation == 1:
            image = ImageEnhance.Contrast(image).enhance(jitter.contrast)
        elif operation == 2:
            image = ImageEnhance.Color(image).enhance(jitter.saturation)
        else:
            image = _shift_hue(image, jitter.hue)
    return image


def recolour(view: Image.Image, params: ViewParams) -> Image.Image:
    """What is done to a crop: jitter, grey, blur and flip."""
    if params.jitter is not None:
        view = _apply_jitter(view, params.jitter)
    if params.grey:
        view = view.convert("L").convert("RGB")
    if params.blur_radius is not None:
        view = view.filter(ImageFilter.GaussianBlur(radius=params.blur_radius))
    if params.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view


def apply(image: Image.Image, params: ViewParams, size: int) -> Pixels:
    """The view of an RGB picture as (S, S, 3)."""
    # Cropped first: `resize(box=...)` would let pixels outside the box bleed into its border.
    crop = image.crop(params.box).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(recolour(crop, params))


def evaluation_view(image: Image.Image, size: int) -> Pixels:
    """The published view for evaluation, (S, S, 3): shorter side to `size` (bilinear), then the middle square."""
    short, long = sorted(image.size)
    longer = int(size * long / short)
    width, height = (size, longer) if image.width <= image.height else (longer, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def normalise(views_B3SS: Tensor) -> Tensor:
    """uint8 views to float32 with ImageNet's mean 0 and standard deviation 1 per colour, on the views' device."""
    mean = torch.tensor(IMAGENET_MEAN, device=views_B3SS.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=views_B3SS.device).view(3, 1, 1)
    return (views_B3SS.to(torch.float32) / 255 - mean) / std
