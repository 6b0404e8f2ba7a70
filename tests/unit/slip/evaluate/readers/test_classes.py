"""Which names the data's classes get, and what is said where they do not fit."""

from __future__ import annotations

import logging
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis.strategies import integers

from pipeline.errors import InputError
from slip.evaluate.readers.classes import Wanted, check_label, classes_of, in_order, key, part_of, warn_of_empty

PETS = (("Maine Coon",), ("american bulldog", "bulldog"), ("pug",))


def wanted(*, in_label_order: bool = False) -> Wanted:
    return Wanted(name="pets", classnames=PETS, in_label_order=in_label_order)


def test_without_published_names_the_data_has_its_own() -> None:
    assert classes_of(["a", "b"], Wanted(name="x"), "x") == (("a",), ("b",))
    with pytest.raises(InputError, match="1 classes; at least 2"):
        classes_of(["a"], Wanted(name="x"), "x")


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_names_find_their_classes_in_any_order(order: tuple[int, ...]) -> None:
    own = ["maine_coon", "American-Bulldog", "PUG"]
    assert classes_of([own[i] for i in order], wanted(), "x") == tuple(PETS[i] for i in order)


def test_a_class_is_known_by_any_of_its_names() -> None:
    assert classes_of(["pug", "bulldog", "Maine Coon"], wanted(), "x") == (PETS[2], PETS[1], PETS[0])


@pytest.mark.parametrize("own", [["0", "1", "2"], ["n01440764", "n01443537", "n01484850"], ["cat", "dog", "pug"]])
def test_other_names_are_taken_in_their_order(own: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert classes_of(own, wanted(), "x") == PETS
    assert caplog.text == ""


def test_names_that_tell_nothing_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert classes_of(["one", "two", "three"], wanted(), "/data/pets") == PETS
    assert "/data/pets: its classes have other names" in caplog.text
    assert "'one' is 'Maine Coon'" in caplog.text


def test_a_known_name_in_another_place_is_an_error() -> None:
    with pytest.raises(InputError, match=r"its class 0 is 'pug', which is class 2 .* 0 is 'Maine Coon'"):
        classes_of(["pug", "x", "y"], wanted(), "x")
    assert classes_of(["pug", "x", "y"], wanted(in_label_order=True), "x") == PETS


def test_a_wrong_number_of_classes_is_an_error() -> None:
    with pytest.raises(InputError, match=r"/d: 2 classes, but pets has 3 class names"):
        classes_of(["a", "b"], wanted(), "/d")


def test_doubled_names_are_told_apart_by_their_place() -> None:
    doubled = (("missile",), ("tank",), ("missile",))
    assert classes_of(["missile", "tank", "missile"], Wanted(name="x", classnames=doubled), "x") == doubled


def test_names_are_compared_without_case_and_marks() -> None:
    assert key("Apartment_Building/outdoor") == key("apartment building  outdoor") == "apartment building outdoor"


def test_numbers_are_ordered_as_numbers() -> None:
    assert in_order(["10", "9", "9", "1"]) == ("1", "9", "10")
    assert in_order(["10", "9", "b"]) == ("10", "9", "b")


def test_a_label_without_class_names_the_picture() -> None:
    assert check_label(2, 3, "a.jpg", "classnames.txt") == 2
    for label in (-1, 3):
        with pytest.raises(InputError, match=rf"a\.jpg: label {label}, expected 0 to 2: classnames\.txt has 3"):
            check_label(label, 3, "a.jpg", "classnames.txt")


def test_empty_classes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    names = tuple((f"c{i}",) for i in range(9))
    with caplog.at_level(logging.WARNING):
        warn_of_empty([1] * 9, names, "test", "/d")
        assert caplog.text == ""
        warn_of_empty([1, 0, 1, 0, 0, 0, 0, 0, 0], names, "test", "/d")
    assert "/d: no picture of 'c1', 'c3', 'c4', 'c5', 'c6' and 2 more in its test split (7 of 9 classes)" in caplog.text


@given(length=integers(0, 200), world_size=integers(1, 17))
def test_parts_are_disjoint_and_even(length: int, world_size: int) -> None:
    parts = [part_of(length, rank, world_size) for rank in range(world_size)]
    assert [number for part in parts for number in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
