from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from slip.evaluate.labelled import LabelledPicture
from slip.evaluate.training_views import (
    epoch_order,
    evaluated_on,
    finetuned_view,
    linear_test_view,
    linear_train_view,
    read_picture,
    trained_on,
    warn_of_empty_classes,
)
from slip.torchvision_compat import import_torchvision
from tests.coloured_pictures import Listed, coloured_set

T = import_torchvision().transforms


def noise(width: int, height: int) -> LabelledPicture:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return LabelledPicture(name="noise", image=pixels, label=0)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (201, 333), (224, 224), (60, 61)])
def test_test_views_are_torchvisions(width: int, height: int) -> None:
    picture = noise(width, height)
    image = Image.fromarray(np.asarray(picture.image))
    linear = T.Compose([T.Resize(256, T.InterpolationMode.BILINEAR), T.CenterCrop(224)])
    bicubic = T.Compose([T.Resize(256, T.InterpolationMode.BICUBIC), T.CenterCrop(224)])
    np.testing.assert_array_equal(linear_test_view(picture, 224), np.asarray(linear(image)))
    np.testing.assert_array_equal(finetuned_view(picture, 224), np.asarray(bicubic(image)))


def test_large_pictures_are_tested_without_a_margin() -> None:
    picture = noise(500, 400)
    whole = T.Compose([T.Resize(384, T.InterpolationMode.BICUBIC), T.CenterCrop(384)])
    image = Image.fromarray(np.asarray(picture.image))
    np.testing.assert_array_equal(finetuned_view(picture, 384), np.asarray(whole(image)))


def test_train_views_are_crops_of_all_sizes_and_half_of_them_flipped() -> None:
    # Red says how far right a pixel is, green how far down: the crop can be read off a view.
    right, down = np.meshgrid(np.arange(200), np.arange(200))
    pixels = np.stack([right, down, right * 0], axis=2).astype(np.uint8)
    picture = LabelledPicture(name="ramp", image=pixels, label=0)
    views = [linear_train_view(picture, 16, seed=1, epoch=2, number=number).astype(int) for number in range(300)]
    flipped = np.asarray([view[8, 0, 0] > view[8, -1, 0] for view in views])
    # From the middle of a view's first pixel to that of its last it is 15 of 16 pixels.
    areas = np.asarray([abs(v[8, 15, 0] - v[8, 0, 0]) * abs(v[15, 8, 1] - v[0, 8, 1]) / 187.5**2 for v in views])
    assert 0.4 < flipped.mean() < 0.6
    boxes = [T.RandomResizedCrop.get_params(Image.fromarray(pixels), [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    theirs = np.asarray([box[2] * box[3] / 200**2 for box in boxes])
    assert abs(areas.mean() - theirs.mean()) < 4 * theirs.std() / len(areas) ** 0.5
    assert abs(np.quantile(areas, 0.1) - np.quantile(theirs, 0.1)) < 0.05
    assert abs(np.quantile(areas, 0.9) - np.quantile(theirs, 0.9)) < 0.05
    again = linear_train_view(picture, 16, seed=1, epoch=2, number=0)
    np.testing.assert_array_equal(again, views[0])
    assert (linear_train_view(picture, 16, seed=1, epoch=3, number=0) != views[0]).any()


def test_an_epoch_takes_every_picture_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in orders}) == 3


def test_sets_without_a_split_are_refused() -> None:
    whole = coloured_set(4, 4)
    without = dataclasses.replace(whole, splits={"test": whole.splits["test"]})
    with pytest.raises(InputError, match="memory/colours: colours has no train split, only test"):
        trained_on(without)
    with pytest.raises(InputError, match="no test split"):
        evaluated_on(dataclasses.replace(whole, splits={"train": whole.splits["train"], "test": Listed([])}))


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(InputError, match="noise: its label is 7, but there are 4 classes"):
        read_picture(Listed([dataclasses.replace(noise(4, 4), label=7)]), 0, 4)


def test_classes_without_pictures_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_empty_classes(coloured_set(4, 4), np.asarray([0, 0, 3]))
    assert "of class green, blue" in caplog.text
