from __future__ import annotations

import pytest

from pipeline.records import Reason
from pipeline.report.words import LANGUAGES, REASONS, license_demands, lower_first, reason_name


def test_every_reason_has_words() -> None:
    assert set(REASONS) == set(Reason)
    assert len({name for name, _ in REASONS.values()}) == len(Reason)


def test_codes_that_are_no_reasons_are_put_in_words() -> None:
    assert reason_name("dead_link") == "Dead link"
    assert reason_name("camera_boilerplate") == "Camera boilerplate"
    assert lower_first("Not in English") == "not in English"


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("http://creativecommons.org/licenses/by/2.0/", 1),
        ("http://creativecommons.org/licenses/by-nc-sa/2.0/", 3),
        ("https://creativecommons.org/licenses/by-nd/4.0/", 2),
        ("http://creativecommons.org/licenses/by-nc-nd/2.0/", 3),
        ("https://creativecommons.org/publicdomain/zero/1.0/", 0),
        ("http://flickr.com/commons/usage/", 0),
    ],
)
def test_demands_of_known_licences(url: str, number: int) -> None:
    demands = license_demands(url)
    assert demands is not None
    assert len(demands) == number
    assert ("no commercial use" in demands) == ("-nc" in url)
    assert ("no altered versions" in demands) == ("-nd" in url)
    assert ("share under the same licence" in demands) == ("-sa" in url)


@pytest.mark.parametrize(
    "url", ["", "https://example.org/creativecommons.org/licenses/by/2.0", "http://creativecommons.org/"]
)
def test_unknown_licences_are_not_guessed(url: str) -> None:
    assert license_demands(url) is None


def test_languages_have_names() -> None:
    assert (LANGUAGES["en"], LANGUAGES["nn"], LANGUAGES["und"]) == ("English", "Norwegian Nynorsk", "cannot be told")
    assert all(code.isalpha() and name for code, name in LANGUAGES.items())
