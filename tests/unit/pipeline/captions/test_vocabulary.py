"""The word-frequency judge: against a slow, obvious naive Bayes, and on wordfreq's own lists."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captions.vocabulary import LANGUAGES, build_vocabulary, english_likelihood, load_vocabulary
from pipeline.errors import InputError

WORDS = ("the", "a", "der", "die", "le", "boat", "hand", "oslo", "ciao")


def _lists(frequencies: dict[str, dict[str, int]]) -> list[list[list[str]]]:
    """For every language, words by their rarity in hundredths of a decade."""
    lists: list[list[list[str]]] = []
    for code in LANGUAGES:
        words_by_rarity: list[list[str]] = [[] for _ in range(601)]
        for word, rarity in frequencies.get(code, {}).items():
            words_by_rarity[rarity].append(word)
        lists.append(words_by_rarity)
    return lists


def _slow_likelihood(words: list[str], frequencies: dict[str, dict[str, int]]) -> float:
    """Naive Bayes as in a text book: frequencies multiplied, then normalised over the classes."""
    products = {"nothing known": 1e-6 ** len(words)}
    for code in LANGUAGES:
        products[code] = 1.0
        for word in words:
            products[code] *= 10 ** (-frequencies.get(code, {}).get(word, 800) / 100)
    return products["en"] / sum(products.values())


@given(
    st.dictionaries(
        st.sampled_from(["en", "de", "fr", "vi"]),
        # Multiples of 4, so that packing into steps of 1/25 loses nothing.
        st.dictionaries(st.sampled_from(WORDS), st.integers(20, 150).map(lambda quarter: 4 * quarter), min_size=1),
        min_size=1,
    ),
    st.lists(st.sampled_from((*WORDS, "xyzzy", "ß")), min_size=1, max_size=12),
)
@settings(deadline=None)
def test_it_is_a_naive_bayes_classifier(frequencies: dict[str, dict[str, int]], words: list[str]) -> None:
    packed = build_vocabulary(_lists(frequencies))
    assert english_likelihood(words, packed) == pytest.approx(_slow_likelihood(words, frequencies), rel=1e-6)


def test_no_words_are_not_english() -> None:
    assert english_likelihood([], build_vocabulary(_lists({"en": {"the": 200}}))) == 0.0


def test_a_long_text_does_not_overflow() -> None:
    packed = build_vocabulary(_lists({"en": {"the": 120}, "de": {"der": 120}}))
    assert english_likelihood(["the"] * 2000, packed) == pytest.approx(1)
    assert english_likelihood(["der"] * 2000, packed) == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "is_english"),
    [
        ("an old bridge over the river", True),
        ("wooden boats", True),
        ("ein altes haus am see", False),
        ("le vieux port de marseille", False),
        ("barco de madera", False),
        ("en gammel båt ved sjøen", False),
        ("havana cuba", False),  # names decide nothing
        ("qwrtz plfgh a zxcvb mnbvc lkjhg", False),  # one English word among unknown ones
    ],
)
def test_published_frequencies(text: str, is_english: bool) -> None:
    assert (english_likelihood(text.split(), load_vocabulary()) >= 0.5) == is_english


def test_it_is_small() -> None:
    packed = load_vocabulary()
    assert len(packed.hashes) > 500_000
    assert packed.hashes.nbytes + packed.steps.nbytes < 40e6
    assert load_vocabulary() is packed


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(InputError, match=r"wordfreq.*pip install '.\[build\]'"):
        load_vocabulary.__wrapped__()
