"""Against Pillow's views and torchvision's: equal parameters give nearly equal pixels, in every row of a batch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from slip.data import device_augment, device_colours
from slip.data.augment import IMAGENET_MEAN, IMAGENET_STD, apply, normalise
from slip.data.device_augment import DeviceAugment, finish_views
from slip.data.device_colours import blend, gaussian_blur, luma, mean_luma, shift_hue
from slip.data.view_params import NUM_UNIFORMS, Jitter, ViewParams, draw_params, params_row
from slip.torchvision_compat import import_torchvision

import_torchvision()
from torchvision.transforms import functional  # noqa: E402

GENERATOR = np.random.Generator(np.random.Philox(5))
SIDE = 64
CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPERATIONS = ("brightness", "contrast", "saturation", "hue")


def photo(side: int = SIDE) -> Image.Image:
    """Soft shapes in strong colours, some of them cut off at white and black, with a camera's noise."""
    shapes = Image.fromarray(GENERATOR.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    soft = np.asarray(shapes.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64)
    levels = 1.3 * (soft - 128) + 128 + GENERATOR.normal(0, 6, soft.shape)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def whole(picture: Image.Image) -> tuple[int, int, int, int]:
    return (0, 0, *picture.size)


def levels(views: Tensor) -> Tensor:
    """0 to 255 again, from normalised views; they must be integers."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    exact = (views.float().cpu() * std + mean) * 255
    assert (exact - exact.round()).abs().max() < 1e-3
    return exact.round()


def batch_of(picture: Image.Image, rows: list[tuple[float, ...]]) -> tuple[Tensor, Tensor]:
    return tensor(picture).expand(len(rows), -1, -1, -1).contiguous(), torch.tensor(rows)


def check(found: Tensor, expected: list[np.ndarray[Any, Any]], *, bound: int) -> None:
    reference = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).float()
    difference = (found - reference).abs()
    assert difference.max() <= bound
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("operation", range(4))
def test_each_operation_of_the_jitter_is_pillows(operation: int) -> None:
    name = OPERATIONS[operation]
    factors = [-0.5, -0.1, 0.0, 0.1, 0.5, *GENERATOR.uniform(-0.1, 0.1, 40)]
    if name != "hue":
        factors = [0.0, 0.5, 0.6, 1.0, 1.4, 2.0, 10.0, *GENERATOR.uniform(0.6, 1.4, 40)]
    picture, rows, expected = photo(), [], []
    for factor in factors:
        values = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, name: float(factor)}
        alone = ViewParams(box=whole(picture), jitter=Jitter(order=(operation,), **values))
        expected.append(apply(picture, alone, SIDE))
        rows.append(params_row(ViewParams(box=alone.box, jitter=Jitter(order=(operation, -1, -1, -1), **values))))
    crops, params = batch_of(picture, rows)
    check(levels(finish_views(crops, params, colours=True, dtype=torch.float32)), expected, bound=1)


@pytest.mark.parametrize("hue", [-0.1, 0.0, 0.043, 0.1, 0.5])
def test_hue_is_pillows_for_all_sorts_of_colours(hue: float) -> None:
    steps = np.linspace(0, 255, 64).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(512, 512, 3)
    jitter = Jitter(order=(3,), brightness=1.0, contrast=1.0, saturation=1.0, hue=hue)
    picture = Image.fromarray(colours)
    found = shift_hue(tensor(picture)[None].float(), torch.full((1, 1, 1, 1), hue))
    check(found, [apply(picture, ViewParams(box=whole(picture), jitter=jitter), 512)], bound=1)


@pytest.mark.parametrize("side", [SIDE, 6, 3, 2, 1])
def test_blur_is_pillows(side: int) -> None:
    picture = photo(side)
    # Drawn radii. Round ones, like 1, can put whole pictures on the border between two integers.
    radii = [0.1, 2.0, 2.4, *GENERATOR.uniform(0.1, 2.0, 40).tolist()]
    views = [ViewParams(box=whole(picture), blur_radius=radius) for radius in radii]
    crops, params = batch_of(picture, [params_row(view) for view in views])
    found = levels(finish_views(crops, params, colours=True, dtype=torch.float32))
    expected = torch.from_numpy(np.stack([apply(picture, view, side) for view in views])).permute(0, 3, 1, 2)
    difference = (found - expected).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.01


def test_grey_is_pillows_and_flip_is_exact() -> None:
    picture = photo()
    views = [ViewParams(box=whole(picture), grey=grey, flip=flip) for grey in (False, True) for flip in (False, True)]
    crops, params = batch_of(picture, [params_row(view) for view in views])
    found = levels(finish_views(crops, params, colours=True, dtype=torch.float32))
    assert torch.equal(found[0], tensor(picture).float())
    assert torch.equal(found[1], tensor(picture).flip(-1).float())
    check(found, [apply(picture, view, SIDE) for view in views], bound=1)


def number(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high", "bound", "mean_bound"),
    [
        (lambda x, v: blend(x, number(0), v), functional.adjust_brightness, 0.6, 1.4, 2, 0.5),
        (lambda x, v: blend(x, mean_luma(x), v), functional.adjust_contrast, 0.6, 1.4, 2, 0.5),
        (lambda x, v: blend(x, luma(x), v), functional.adjust_saturation, 0.6, 1.4, 2, 0.5),
        (lambda x, _: luma(x), lambda x, _: functional.rgb_to_grayscale(x), 0.0, 1.0, 2, 0.7),
        # On tensors torchvision does not round hues. Pillow has 256, one is worth six levels, and up to three are lost:
        # in the hue, in its shift, and where the circle of 255 wraps at 256.
        (shift_hue, functional.adjust_hue, -0.1, 0.1, 20, 2.5),
        # Three boxes are not a Gaussian, least of all at radii under 1. At borders (not compared) torchvision mirrors.
        (gaussian_blur, lambda x, r: functional.gaussian_blur(x, [17, 17], [r, r]), 1.0, 2.0, 4, 1.0),
        (gaussian_blur, lambda x, r: functional.gaussian_blur(x, [17, 17], [r, r]), 0.1, 1.0, 9, 1.5),
    ],
    ids=["brightness", "contrast", "saturation", "grey", "hue", "blur", "small blur"],
)
def test_each_operation_is_near_torchvisions_on_tensors(
    ours: Callable[[Tensor, Tensor], Tensor],
    theirs: Callable[[Tensor, float], Tensor],
    low: float,
    high: float,
    bound: float,
    mean_bound: float,
) -> None:
    for value in (low, high, *GENERATOR.uniform(low, high, 20).tolist()):
        pixels = tensor(photo(96))[None]
        difference = ours(pixels.float(), number(value)) - theirs(pixels, value).float()
        inside = difference[..., 8:-8, 8:-8].abs()
        assert inside.max() <= bound
        assert inside.mean() <= mean_bound


def ssl_batch(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crops by Pillow, their parameters, and the views Pillow makes of them."""
    crops, params, views = [], [], []
    for _ in range(rows):
        picture = photo(90)
        drawn = draw_params("ssl", *picture.size, GENERATOR.random(NUM_UNIFORMS).tolist())
        crops.append(apply(picture, ViewParams(box=drawn.box), SIDE))
        views.append(apply(picture, drawn, SIDE))
        params.append(params_row(drawn))
    stacked = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous() for pixels in (crops, views))
    return next(stacked), torch.tensor(params), next(stacked).float()


@pytest.mark.parametrize("device", DEVICES)
def test_views_are_pillows(device: str) -> None:
    crops, params, views = ssl_batch(128)
    augment = DeviceAugment(torch.device(device), dtype=torch.float32)
    difference = levels(augment(crops.to(device), params.to(device))) - views
    # A level off before a shift of the hue may be several after it; nearly always there is none.
    assert difference.abs().max() <= 8
    assert 10 * torch.log10(255**2 / difference.square().mean().clamp(min=1e-9)) > 70


def test_bfloat16_would_be_levels_off() -> None:
    crops, params, views = ssl_batch(64)
    found = device_augment._coloured(crops.bfloat16(), params.bfloat16())
    difference = (found.float() - views).abs()
    assert difference.max() > 8
    assert difference.mean() > 0.8


def test_a_row_does_not_depend_on_its_batch() -> None:
    crops, params, _ = ssl_batch(24)
    together = finish_views(crops, params, colours=True, dtype=torch.float32)
    order = torch.from_numpy(GENERATOR.permutation(24))
    shuffled = finish_views(crops[order], params[order], colours=True, dtype=torch.float32)
    assert torch.equal(shuffled, together[order])
    for row in range(24):
        alone = finish_views(crops[row : row + 1], params[row : row + 1], colours=True, dtype=torch.float32)
        assert torch.equal(alone[0], together[row])


def test_selecting_rows_is_doing_only_what_each_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, params, _ = ssl_batch(64)
    one_by_one = finish_views(crops, params, colours=True, dtype=torch.float32)
    for module in (device_augment, device_colours):
        monkeypatch.setattr(module, "rows_can_be_asked", lambda rows: False)
    assert torch.equal(finish_views(crops, params, colours=True, dtype=torch.float32), one_by_one)


def test_views_come_in_the_dtype_and_without_a_graph() -> None:
    crops, params, _ = ssl_batch(8)
    exact = finish_views(crops, params.requires_grad_(), colours=True, dtype=torch.float32)
    rounded = finish_views(crops, params, colours=True, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.to(torch.bfloat16))
    assert not exact.requires_grad
    weight = torch.ones(3, 1, 1, requires_grad=True)
    (exact * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_without_colours_crops_are_normalised() -> None:
    crops, params, _ = ssl_batch(4)
    expected = normalise(crops)
    assert torch.equal(finish_views(crops, params, colours=False, dtype=torch.float32), expected)
    assert torch.equal(DeviceAugment(CPU, dtype=torch.float32)(crops, None), expected)
    rows_last = crops.contiguous(memory_format=torch.channels_last)
    assert torch.equal(DeviceAugment(CPU, dtype=torch.float32)(rows_last, None), expected)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours: the compiler writes its own log."""
    return [record.getMessage() for record in caplog.records if record.name == device_augment.__name__]


@pytest.mark.skipif(shutil.which("g++") is None and "CI" not in os.environ, reason="torch.compile needs a C++ compiler")
def test_compiled_views_are_the_same(caplog: pytest.LogCaptureFixture) -> None:
    augment = DeviceAugment(CPU, dtype=torch.float32, compiled=True)
    for attempt in range(2):
        crops, params, _ = ssl_batch(8)
        expected = levels(finish_views(crops, params, colours=True, dtype=torch.float32))
        # Other parameters, flags and orders are no other program.
        with torch.compiler.set_stance("fail_on_recompile" if attempt else "default"):
            found = augment(crops, params)
        assert (levels(found) - expected).abs().max() <= 1
    assert not warnings_of(caplog)


def failing_to_compile(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("no compiler found\nand many lines about it")


def failing_when_called(*args: Any, **kwargs: Any) -> Any:
    return failing_to_compile


@pytest.mark.parametrize("broken", [failing_to_compile, failing_when_called])
def test_without_a_compiler_views_are_made_all_the_same(
    broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", broken)
    crops, params, _ = ssl_batch(4)
    augment = DeviceAugment(CPU, dtype=torch.float32, compiled=True)
    for _ in range(3):
        expected = finish_views(crops, params, colours=True, dtype=torch.float32)
        assert torch.equal(augment(crops, params), expected)
    (warning,) = warnings_of(caplog)
    assert warning.endswith("RuntimeError: no compiler found")


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_wrong_with_a_batch_is_raised(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    crops, params, _ = ssl_batch(2)
    with pytest.raises(IndexError):
        DeviceAugment(CPU, dtype=torch.float32, compiled=compiled)(crops, params[:, :3])
    with pytest.raises(RuntimeError, match="size of tensor"):
        DeviceAugment(CPU, dtype=torch.float32, compiled=compiled)(crops[:, :2], None)
