"""How likely the words of a text are in English rather than in another language, from published word frequencies.

Comes in: words of one text. Goes out: a probability. Knows 27 languages written in Latin letters by their 20,000 to
40,000 most frequent words, from the package `wordfreq` (Speer 2022, doi 10.5281/zenodo.7199437; it reads files of its
own and no network). Slower than `language`'s first judge, and better where that one is unsure: names stand in
the lists of many languages with like frequencies and so decide nothing.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

LANGUAGES = (
    *("en", "ca", "cs", "da", "de", "es", "fi", "fil", "fr", "hu", "id", "is", "it"),
    *("lt", "lv", "ms", "nb", "nl", "pl", "pt", "ro", "sh", "sk", "sl", "sv", "tr", "vi"),
)
"""wordfreq's languages in Latin letters; English is the first."""

# Frequencies are held as -log10 in steps of 1/25 (10 %), in one byte. The lists end at 1e-6. A word that a language's
# list lacks is rarer than that: the few per cent of a text that such lists miss are spread over millions of words.
_STEPS_PER_DECADE = 25
_NOT_IN_LIST = 8 * _STEPS_PER_DECADE
# A language that has no list here, or no language at all: every word of its texts is like the rarest of a list.
_UNKNOWN_LANGUAGE = 6 * _STEPS_PER_DECADE
_CERTAIN = 100 * _STEPS_PER_DECADE  # keeps 10^x within what a float holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Word frequencies in all of `LANGUAGES`; 28 MB, shared by processes that fork after it is loaded."""

    hashes: NDArray[np.int64]
    """hash() of every word, ascending (only of use in this process and its forks). A dict of these 800,000 words would
    take several times the memory; that two words share one of 2^64 hashes is not to be expected."""
    steps: NDArray[np.uint8]
    """One row per hash, one column per language: -log10 of the frequency, in steps of 1/25."""


def build_vocabulary(lists: Iterable[Sequence[Sequence[str]]]) -> Vocabulary:
    """Pack word lists, one for each of `LANGUAGES`.

    Item n of a list holds the words with a frequency of 10^(-n/100), as in wordfreq's own files.
    """
    hashes, steps = [], []
    for words_by_rarity in lists:
        hashes.append(np.fromiter((hash(word) for words in words_by_rarity for word in words), dtype=np.int64))
        rarities = np.arange(len(words_by_rarity)) * _STEPS_PER_DECADE // 100
        steps.append(np.repeat(rarities, [len(words) for words in words_by_rarity]).astype(np.uint8))
    known = np.unique(np.concatenate(hashes))
    table = np.full((len(known), len(LANGUAGES)), _NOT_IN_LIST, dtype=np.uint8)
    for column, (of_words, values) in enumerate(zip(hashes, steps, strict=True)):
        table[np.searchsorted(known, of_words), column] = values
    return Vocabulary(hashes=known, steps=table)


@functools.cache
def load_vocabulary() -> Vocabulary:
    """The vocabulary of this process, read from wordfreq's files by the first call (about a second).

    Raises:
        InputError: the package wordfreq is not installed.
    """
    try:
        wordfreq = importlib.import_module("wordfreq")
    except ImportError as error:
        raise InputError(
            f"telling languages apart needs the package wordfreq ({error}): pip install '.[build]'"
        ) from None

    def lists() -> Iterator[list[list[str]]]:
        for code in LANGUAGES:
            yield wordfreq.get_frequency_list(code, "small")
            wordfreq.get_frequency_list.cache_clear()  # it would keep them all, 100 MB

    return build_vocabulary(lists())


def english_likelihood(words: Sequence[str], vocabulary: Vocabulary) -> float:
    """The probability (0 to 1) that these lower-case words are English, when every language is as likely beforehand.

    A naive Bayes classifier: the frequencies of the words are multiplied. One more class is "none of these languages",
    so that one English word among unknown ones does not make a text English. 0.0 for no words.
    """
    if not words:
        return 0.0
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words))
    rows = np.minimum(np.searchsorted(vocabulary.hashes, hashes), len(vocabulary.hashes) - 1)
    rows = rows[vocabulary.hashes[rows] == hashes]
    in_lists = vocabulary.steps[rows].sum(axis=0, dtype=np.int64) + (len(words) - len(rows)) * _NOT_IN_LIST
    rarities = [*in_lists.tolist(), len(words) * _UNKNOWN_LANGUAGE]
    return 1 / sum(math.pow(10, min(rarities[0] - rarity, _CERTAIN) / _STEPS_PER_DECADE) for rarity in rarities)
